// The resources that are idle, in the order of their puts.
//
// Knows: which was put when, and which is only kept until its replacement stands.
// Must not know: how many there may be, and for how long.

import type { Entry } from "./_pool_entry.ts";
import { WarmList } from "./_pool_list.ts";

/** What may be lent. */
export class IdleResources<T> {
  /** The longest idle first. */
  readonly #list = new WarmList<Entry<T>>();
  /** Those that are kept only until their replacements stand. */
  readonly #aged = new Set<Entry<T>>();
  readonly #lifo: boolean;
  #puts = 0;
  size = 0;
  /** How many are no aged ones. */
  fresh = 0;

  /** @param lifo Whether the one put last is lent first. */
  constructor(lifo: boolean) {
    this.#lifo = lifo;
  }

  /** Which is lent next. */
  next(): Entry<T> | undefined {
    return this.#lifo ? this.#list.last() : this.#list.first();
  }

  /** Which was put first. */
  coldest(): Entry<T> | undefined {
    return this.#list.first();
  }

  /** One that is kept only until its replacement stands. */
  firstAged(): Entry<T> | undefined {
    const [aged] = this.#aged;
    return aged;
  }

  /** All, the longest idle first. */
  toArray(): Entry<T>[] {
    return this.#list.toArray();
  }

  /** Takes in what was put just now. */
  add(entry: Entry<T>): void {
    entry.order = ++this.#puts;
    this.#list.push(entry);
    this.#count(entry);
  }

  /** Takes in again what was only looked at: to where it was. */
  restore(entry: Entry<T>): void {
    const { order } = entry;
    this.#list.insert(entry, (other) => other.order < order);
    this.#count(entry);
  }

  remove(entry: Entry<T>): void {
    this.#list.remove(entry);
    this.size--;
    if (entry.aged) this.#aged.delete(entry);
    else this.fresh--;
  }

  /** Notes that an idle resource is kept only until its replacement stands. */
  age(entry: Entry<T>): void {
    entry.aged = true;
    this.#aged.add(entry);
    this.fresh--;
  }

  #count(entry: Entry<T>): void {
    entry.state = "idle";
    this.size++;
    if (entry.aged) this.#aged.add(entry);
    else this.fresh++;
  }
}
