// A list whose members can leave it from the middle.
//
// Knows: nothing but links. Must not know: what is linked.

import { bug } from "./_bug.ts";

/** A member of a {@linkcode List}, one at a time. */
export class Link {
  prev: Link = this;
  next: Link = this;
}

/** A doubly linked ring: every operation is O(1) and allocates nothing. */
export class List<N extends Link> {
  readonly #end = new Link();
  size = 0;

  first(): N | undefined {
    return this.size === 0 ? undefined : this.#end.next as N;
  }

  last(): N | undefined {
    return this.size === 0 ? undefined : this.#end.prev as N;
  }

  before(link: N): N | undefined {
    return link.prev === this.#end ? undefined : link.prev as N;
  }

  after(link: N): N | undefined {
    return link.next === this.#end ? undefined : link.next as N;
  }

  push(link: N): void {
    this.#insert(link, this.#end);
  }

  /** Puts a link in front of one that is in the list. */
  insertBefore(link: N, next: N): void {
    this.#insert(link, next);
  }

  remove(link: N): void {
    if (link.next === link) bug("it is in no list");
    link.prev.next = link.next;
    link.next.prev = link.prev;
    link.prev = link.next = link;
    this.size--;
  }

  #insert(link: N, next: Link): void {
    const { prev } = next;
    link.prev = prev;
    link.next = next;
    prev.next = link;
    next.prev = link;
    this.size++;
  }
}

/**
 * A list whose newest member is not linked before another comes, so that one
 * which comes and goes at once costs nothing but a field: an eighth of what a get
 * and a put take together.
 */
export class WarmList<N extends Link> {
  readonly #linked = new List<N>();
  #newest: N | undefined = undefined;

  get size(): number {
    return this.#linked.size + (this.#newest === undefined ? 0 : 1);
  }

  first(): N | undefined {
    return this.#linked.first() ?? this.#newest;
  }

  last(): N | undefined {
    return this.#newest ?? this.#linked.last();
  }

  push(link: N): void {
    if (this.#newest !== undefined) this.#linked.push(this.#newest);
    this.#newest = link;
  }

  remove(link: N): void {
    if (link === this.#newest) this.#newest = undefined;
    else this.#linked.remove(link);
  }

  /**
   * Puts a link where it belongs.
   *
   * @param follows Whether the link belongs behind a member.
   */
  insert(link: N, follows: (member: N) => boolean): void {
    const list = this.#linked;
    if (this.#newest !== undefined) list.push(this.#newest);
    this.#newest = undefined;
    // From both ends: most belong near one of them.
    let low = list.first();
    let high = list.last();
    while (low !== undefined && high !== undefined) {
      if (follows(high)) {
        low = list.after(high);
        break;
      }
      if (!follows(low)) break;
      low = list.after(low);
      high = list.before(high);
    }
    if (low === undefined) list.push(link);
    else list.insertBefore(link, low);
  }

  /** All members, in order. */
  toArray(): N[] {
    const members: N[] = [];
    let member = this.#linked.first();
    while (member !== undefined) {
      members.push(member);
      member = this.#linked.after(member);
    }
    if (this.#newest !== undefined) members.push(this.#newest);
    return members;
  }
}
