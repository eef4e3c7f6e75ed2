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

  #insert(link: N, next: Link): void {
    const { prev } = next;
    link.prev = prev;
    link.next = next;
    prev.next = link;
    next.prev = link;
    this.size++;
  }

  remove(link: N): void {
    if (link.next === link) bug("it is in no list");
    link.prev.next = link.next;
    link.next.prev = link.prev;
    link.prev = link.next = link;
    this.size--;
  }
}
