// The checks of options, for every module: what is declared with a default is
// checked and completed here, with one wording of messages.
//
// Knows: the kinds of values that options have.
// Must not know: which options there are, and what they mean.

import { MAX_DELAY } from "./_timers.ts";

/** Options by name, each of which may be left out. */
type Given<K extends string, V> = { readonly [P in K]?: V | undefined };

/** The range of a number, as its message says it. */
interface Range {
  /** The smallest value. */
  readonly min: number;
  /** The largest value, itself allowed; `Infinity` allows `Infinity`. */
  readonly max: number;
}

/** Checks that something is an object: options as a whole, hooks, settings. */
export function checkObject(what: string, value: unknown): void {
  if (typeof value === "object" && value !== null) return;
  throw new TypeError(`${what} must be an object, received ${show(value)}`);
}

/** Checks that something is a function. */
export function checkFunction(what: string, value: unknown): void {
  if (typeof value === "function") return;
  throw new TypeError(`${what} must be a function, received ${show(value)}`);
}

/** An option that is a whole number. */
export function integerOption<K extends string>(
  options: Given<K, number>,
  name: K,
  fallback: number,
  range: Range,
): number {
  const { [name]: value = fallback } = options;
  checkNumber(name, value);
  const whole = Number.isSafeInteger(value) || value === Infinity;
  if (!whole || value < range.min || value > range.max) {
    throw new RangeError(
      `Option ${name} must be an integer ${describe(range)}, received ${value}`,
    );
  }
  return value;
}

/** An option that is a duration in milliseconds; `max` is the longest. */
export function durationOption<K extends string>(
  options: Given<K, number>,
  name: K,
  fallback: number,
  max: number = MAX_DELAY,
): number {
  const { [name]: value = fallback } = options;
  checkNumber(name, value);
  if (!(value >= 0 && value <= max)) {
    throw new RangeError(
      `Option ${name} must be from 0 to ${max} ms, received ${value}`,
    );
  }
  return value;
}

/** An option that is true or false. */
export function booleanOption<K extends string>(
  options: Given<K, boolean>,
  name: K,
  fallback: boolean,
): boolean {
  const { [name]: value = fallback } = options;
  checkType(name, value, "boolean");
  return value;
}

/** An option that is a text, if it is given. */
export function stringOption<K extends string>(
  options: Given<K, string>,
  name: K,
): string | undefined {
  const { [name]: value } = options;
  if (value !== undefined) checkType(name, value, "string");
  return value;
}

/** An option that is a text and says something, if it is given. */
export function nameOption<K extends string>(
  options: Given<K, string>,
  name: K,
): string | undefined {
  const value = stringOption(options, name);
  if (value === "") throw new RangeError(`Option ${name} must not be empty`);
  return value;
}

/** An option that is a list of texts, if it is given. */
export function stringsOption<K extends string>(
  options: Given<K, readonly string[]>,
  name: K,
): string[] | undefined {
  const { [name]: value } = options;
  if (value === undefined) return undefined;
  if (
    !Array.isArray(value) || !value.every((text) => typeof text === "string")
  ) {
    throw new TypeError(
      `Option ${name} must be an array of strings, received ${show(value)}`,
    );
  }
  // A copy: what the caller does to the list later is not checked.
  return [...value];
}

/** An option that is a callback, if it is given. */
export function functionOption<K extends string, F>(
  options: Given<K, F>,
  name: K,
): F | undefined {
  const { [name]: value } = options;
  if (value !== undefined) checkType(name, value, "function");
  return value;
}

/** An option that is an object, if it is given. */
export function objectOption<K extends string, O>(
  options: Given<K, O>,
  name: K,
): O | undefined {
  const { [name]: value } = options;
  if (value !== undefined) checkType(name, value, "object");
  return value;
}

/**
 * Checks an option that is an object of callbacks, if it is given.
 *
 * @param option What the option is called.
 * @param names The callbacks; all that it has, where none are named.
 */
export function checkHooks<H extends object>(
  option: string,
  hooks: H | undefined,
  names: readonly (keyof H & string)[] = Object.keys(hooks ?? {}) as never,
): void {
  if (objectOption({ [option]: hooks }, option) === undefined) return;
  for (const name of names) {
    const path = `${option}.${name}`;
    functionOption({ [path]: hooks?.[name] }, path);
  }
}

/** An option that is one of a few words. */
export function choiceOption<K extends string, V extends string>(
  options: Given<K, V>,
  name: K,
  fallback: V,
  choices: readonly V[],
): V {
  const given: V | undefined = options[name];
  const value = given === undefined ? fallback : given;
  if (choices.includes(value)) return value;
  const ErrorClass = typeof value === "string" ? RangeError : TypeError;
  throw new ErrorClass(
    `Option ${name} must be ${choices.map(show).join(" or ")}, received ${
      show(value)
    }`,
  );
}

/**
 * A signal, if there is one. `undefined` and `null` are none; whatever else is
 * no `AbortSignal` is refused, since a caller who passes it believes that the
 * wait can be ended.
 */
export function signalOption(
  options: { readonly signal?: AbortSignal | null | undefined } | undefined,
): AbortSignal | undefined {
  const signal = options?.signal;
  if (signal === undefined || signal === null) return undefined;
  if (signal instanceof AbortSignal) return signal;
  throw new TypeError(
    `Option signal must be an AbortSignal, received ${show(signal)}`,
  );
}

/** Names a value in a message: a text with its quotes, an object by its class. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) return "an array";
  if (typeof value !== "object" || value === null) return String(value);
  const { constructor } = value;
  return typeof constructor === "function" && constructor !== Object &&
      constructor.name !== ""
    ? constructor.name
    : "an object";
}

function checkNumber(name: string, value: unknown): void {
  checkType(name, value, "number");
}

function checkType(name: string, value: unknown, type: string): void {
  if (typeof value === type && value !== null) return;
  const article = type === "object" ? "an" : "a";
  throw new TypeError(
    `Option ${name} must be ${article} ${type}, received ${show(value)}`,
  );
}

function describe({ min, max }: Range): string {
  return max === Infinity ? `of at least ${min}` : `from ${min} to ${max}`;
}
