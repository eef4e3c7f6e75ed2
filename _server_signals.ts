// What is to be ended when a signal aborts.
//
// Knows: adding a listener to a signal that has many costs as many steps, and so
// does removing one. Must not know: what is ended.

/** What is told of each signal. It is here for as long as a signal has somebody
 * to tell; a signal that nobody else holds takes its group along. */
const groups = new WeakMap<AbortSignal, Set<(reason: unknown) => void>>();

/**
 * Has a function called when a signal aborts. All that wait for one signal share
 * one listener.
 *
 * @param signal One that has not aborted.
 * @param abort Told of the signal's reason, once. It must not throw.
 * @returns Takes the function back.
 */
export function onAbort(
  signal: AbortSignal,
  abort: (reason: unknown) => void,
): () => void {
  let group = groups.get(signal);
  if (group === undefined) {
    group = new Set();
    groups.set(signal, group);
    signal.addEventListener("abort", tellAll);
  }
  const members = group;
  // Wrapped, since one function may be given twice.
  const member = (reason: unknown) => abort(reason);
  members.add(member);
  return () => {
    if (!members.delete(member) || members.size > 0) return;
    if (groups.get(signal) !== members) return;
    groups.delete(signal);
    signal.removeEventListener("abort", tellAll);
  };
}

/** One function for all signals: a listener of its own for each would keep
 * alive what it was made in. */
function tellAll(event: Event): void {
  const signal = event.target as AbortSignal;
  const members = groups.get(signal);
  groups.delete(signal);
  signal.removeEventListener("abort", tellAll);
  if (members === undefined) return;
  for (const member of members) member(signal.reason);
}
