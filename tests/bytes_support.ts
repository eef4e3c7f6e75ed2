/** Bytes for tests: from text and from hexadecimal digits, patterned, cut,
 * written. */
import { concat } from "@std/bytes";

export const KIB = 1024;
export const MIB = 1024 * KIB;

/** Text as bytes; each character is one. */
export function ascii(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

/** Bytes as text. */
export function textOf(payload: Uint8Array): string {
  return new TextDecoder().decode(payload);
}

/** Bytes from pieces: a number is one byte, text is Latin-1. */
export function bytes(
  ...pieces: (number | string | Uint8Array)[]
): Uint8Array<ArrayBuffer> {
  const parts = pieces.map((piece) => {
    if (typeof piece === "number") return Uint8Array.of(piece);
    if (typeof piece === "string") {
      return Uint8Array.from(piece, (char) => char.charCodeAt(0));
    }
    return piece;
  });
  return concat(parts);
}

/** Bytes from hexadecimal text; blanks count for nothing. */
export function hex(text: string): Uint8Array {
  const digits = text.replaceAll(/\s/g, "");
  if (digits.length % 2 !== 0) throw new Error(`odd hex: ${text}`);
  const out = new Uint8Array(digits.length / 2);
  for (let i = 0; i < out.length; i++) {
    out[i] = parseInt(digits.slice(2 * i, 2 * i + 2), 16);
  }
  return out;
}

/** `length` bytes that differ from their neighbours, so that a shift shows. */
export function pattern(length: number, salt = 0): Uint8Array {
  const out = new Uint8Array(length);
  for (let i = 0; i < length; i++) out[i] = (i * 31 + (i >> 8) + salt) & 0xff;
  return out;
}

/** Every split of `input` into two pieces, and into single bytes. */
export function splits(input: Uint8Array): Uint8Array[][] {
  const all: Uint8Array[][] = [[input]];
  for (let i = 1; i < input.length; i++) {
    all.push([input.subarray(0, i), input.subarray(i)]);
  }
  all.push(Array.from(input, (byte) => Uint8Array.of(byte)));
  return all;
}

/** Writes all of `bytes`. */
export async function writeAll(
  to: { write(p: Uint8Array): Promise<number> },
  bytes: Uint8Array,
): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await to.write(bytes.subarray(at));
  }
}
