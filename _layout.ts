// Where the fields of a frame stand, and how numbers are written in them.
//
// Knows: the options of a layout, and arithmetic on bytes. Must not know: which
// lengths are good (codec.ts judges), and where frames come from or go to.
//
//   layout.offset        width          inserted    what is left of the payload
//  +--------------------+--------------+-----------+---------------------------+
//  | bytes before it    | length field | id        | bytes after the field ... |
//  +--------------------+--------------+-----------+---------------------------+
//  |<--------- headerLength ---------->|
//  |<---- idAt, from here to wherever the id stands; inserted, right here: -----^

import { checkObject, choiceOption, integerOption } from "./_options.ts";

/** Default of `maxFrameLength`: large enough for most messages, small enough
 * that one peer cannot exhaust a process. */
const DEFAULT_MAX_FRAME_LENGTH = 16 * 1024 * 1024;

/** The farthest from the length field that an id may stand: it is to be among
 * the first bytes that a large payload sends along with its header. */
const MAX_ID_OFFSET = 0xffff;

/** The options that a layout is made from. */
interface LayoutOptions {
  readonly lengthFieldLength?: 1 | 2 | 3 | 4 | 8 | undefined;
  readonly byteOrder?: "big" | "little" | undefined;
  readonly lengthFieldOffset?: number | undefined;
  readonly lengthAdjustment?: number | undefined;
  readonly initialBytesToStrip?: number | undefined;
  readonly maxFrameLength?: number | undefined;
}

/** Where an id stands, as it is given. */
interface IdOptions {
  readonly length: 1 | 2 | 4;
  readonly offset?: number | undefined;
}

/** The options of a layout, checked and completed. */
export interface Layout {
  readonly width: 1 | 2 | 3 | 4 | 8;
  readonly little: boolean;
  readonly offset: number;
  readonly adjustment: number;
  readonly strip: number;
  readonly maxLength: number;
  /** Bytes up to the end of the length field. */
  readonly headerLength: number;
  /** The largest value that the length field can hold exactly. */
  readonly maxValue: number;
  /** Width of the id; 0 where frames carry none. */
  readonly idWidth: number;
  /** Where the id begins, from the first byte of the frame. */
  readonly idAt: number;
  /** Bytes that are put in behind the length field and taken out again: the
   * id's width, or 0 where the payload has room for the id. */
  readonly inserted: number;
  /** The fewest bytes that a frame takes on the wire: with its header, its id,
   * and all that is to be stripped. */
  readonly minFrameLength: number;
  /** Whether frames are the default ones: eight bytes, big endian, that count
   * what follows and are stripped, and behind them an id that is put in, if
   * there is one. Their headers are read and written without loops; what the
   * loops do stays the rule, and a test holds the two together. */
  readonly simple: boolean;
}

const DEFAULT_LAYOUT: Layout = complete({}, undefined);

/** How many layouts are remembered, to be shared. */
const MAX_SHARED = 8;

/** The layouts that were shared last. */
const shared: Layout[] = [DEFAULT_LAYOUT];

/** Checks and completes the options of a layout. */
export function resolveLayout(
  options: LayoutOptions | undefined,
  id?: IdOptions | undefined,
): Layout {
  if (options === undefined && id === undefined) return DEFAULT_LAYOUT;
  return complete(options === undefined ? {} : options, id);
}

/**
 * The same for what keeps its layout, as a connection does. All connections of a
 * server have equal layouts, one for requests and one for responses. Two layouts
 * of its own would be a thirtieth of what an idle connection costs.
 *
 * @returns The layout that others have, where an equal one is remembered.
 */
export function shareLayout(
  options: LayoutOptions | undefined,
  id: IdOptions | undefined,
): Layout {
  const layout = resolveLayout(options, id);
  const same = shared.find((other) => areEqual(layout, other));
  if (same !== undefined) return same;
  shared.push(layout);
  // The default stays, as the first.
  if (shared.length > MAX_SHARED) shared.splice(1, 1);
  return layout;
}

function areEqual(one: Layout, other: Layout): boolean {
  for (const key in one) {
    if (one[key as keyof Layout] !== other[key as keyof Layout]) return false;
  }
  return true;
}

function complete(options: LayoutOptions, id: IdOptions | undefined): Layout {
  checkObject("Options", options);
  const { MIN_SAFE_INTEGER: lowest, MAX_SAFE_INTEGER: highest } = Number;
  const range = (min: number, max: number) => ({ min, max });
  const width = integerOption(options, "lengthFieldLength", 8, range(1, 8));
  if (width > 4 && width < 8) {
    throw new RangeError(
      `Option lengthFieldLength must be 1, 2, 3, 4 or 8, received ${width}`,
    );
  }
  const order = choiceOption(options, "byteOrder", "big", ["big", "little"]);
  const offset = integerOption(
    options,
    "lengthFieldOffset",
    0,
    range(0, 0xffff),
  );
  const headerLength = offset + width;
  const strip = integerOption(
    options,
    "initialBytesToStrip",
    headerLength,
    range(0, highest),
  );
  const adjustment = integerOption(
    options,
    "lengthAdjustment",
    0,
    range(lowest, highest),
  );
  const { idWidth, idAt, inserted } = resolveId(id, width, headerLength);
  const maxLength = integerOption(
    options,
    "maxFrameLength",
    DEFAULT_MAX_FRAME_LENGTH,
    range(inserted, highest),
  );
  return {
    width: width as Layout["width"],
    little: order === "little",
    offset,
    adjustment,
    strip,
    maxLength,
    headerLength,
    maxValue: width === 8 ? highest : 2 ** (8 * width) - 1,
    idWidth,
    idAt,
    inserted,
    simple: width === 8 && order === "big" && offset === 0 &&
      adjustment === 0 && strip === 8 && idWidth === inserted,
    minFrameLength: Math.max(
      headerLength + inserted,
      strip + inserted,
      idAt + idWidth,
    ),
  };
}

function resolveId(
  id: IdOptions | undefined,
  width: number,
  headerLength: number,
): Pick<Layout, "idWidth" | "idAt" | "inserted"> {
  if (id === undefined) return { idWidth: 0, idAt: 0, inserted: 0 };
  checkObject("Id field", id);
  const idWidth = integerOption(id, "length", 0, { min: 1, max: 4 });
  if (idWidth === 3) {
    throw new RangeError("Option length must be 1, 2 or 4, received 3");
  }
  if (id.offset === undefined) {
    return { idWidth, idAt: headerLength, inserted: idWidth };
  }
  const at = integerOption(id, "offset", 0, {
    min: -headerLength,
    max: MAX_ID_OFFSET,
  });
  if (at < 0 && at + idWidth > -width) {
    throw new RangeError(
      `Option offset must leave the length field alone: an id of ${idWidth} bytes at ${at} lies in it`,
    );
  }
  return { idWidth, idAt: headerLength + at, inserted: 0 };
}

/** Where the id of a frame stands in the payload that the frame is made of,
 * which has no length field. */
export function idInPayload({ idAt, headerLength, width }: Layout): number {
  return idAt < headerLength ? idAt : idAt - width;
}

/** Reads a length field. Only a value that a number cannot hold exactly comes
 * back as a bigint: the two halves are looked at before any arithmetic. */
export function readLengthField(
  { width, little }: Layout,
  chunk: Uint8Array,
  at: number,
): number | bigint {
  if (width !== 8) return readUint(chunk, at, width, little);
  const first = readUint(chunk, at, 4, little);
  const second = readUint(chunk, at + 4, 4, little);
  const high = little ? second : first;
  const low = little ? first : second;
  if (high > 0x1f_ffff) return (BigInt(high) << 32n) | BigInt(low);
  return high * 2 ** 32 + low;
}

/** Writes a length field. */
export function writeLengthField(
  { width, little }: Layout,
  frame: Uint8Array,
  at: number,
  value: number,
): void {
  if (width !== 8) return writeUint(frame, at, width, little, value);
  const high = Math.floor(value / 2 ** 32);
  writeUint(frame, at, 4, little, little ? value : high);
  writeUint(frame, at + 4, 4, little, little ? high : value);
}

/** Reads the length field of a simple layout; -1 where it is one of those that
 * {@linkcode readLengthField} has to judge, of 4 GiB and more. */
export function readSimpleLength(chunk: Uint8Array, at: number): number {
  const high = chunk[at]! | chunk[at + 1]! | chunk[at + 2]! | chunk[at + 3]!;
  if (high !== 0) return -1;
  return ((chunk[at + 4]! << 24) | (chunk[at + 5]! << 16) |
    (chunk[at + 6]! << 8) | chunk[at + 7]!) >>> 0;
}

/** Writes the length field of a simple layout, of less than 4 GiB. */
export function writeSimpleLength(
  frame: Uint8Array,
  at: number,
  value: number,
): void {
  frame[at] =
    frame[at + 1] =
    frame[at + 2] =
    frame[at + 3] =
      0;
  frame[at + 4] = value >>> 24;
  frame[at + 5] = value >>> 16;
  frame[at + 6] = value >>> 8;
  frame[at + 7] = value;
}

/** Reads an unsigned number of at most four bytes. */
export function readUint(
  chunk: Uint8Array,
  at: number,
  width: number,
  little: boolean,
): number {
  if (width === 4 && !little) {
    // Most numbers are like this, and a loop costs several times as much.
    return ((chunk[at]! << 24) | (chunk[at + 1]! << 16) |
      (chunk[at + 2]! << 8) | chunk[at + 3]!) >>> 0;
  }
  return readAnyUint(chunk, at, width, little);
}

/** Any other number. The loop stands apart, since V8 compiles only what is small
 * into its callers. */
function readAnyUint(
  chunk: Uint8Array,
  at: number,
  width: number,
  little: boolean,
): number {
  let value = 0;
  for (let i = 0; i < width; i++) {
    value = (value << 8) | chunk[little ? at + width - 1 - i : at + i]!;
  }
  return value >>> 0;
}

/** Writes the lowest `width` bytes of a number, at most four. */
export function writeUint(
  frame: Uint8Array,
  at: number,
  width: number,
  little: boolean,
  value: number,
): void {
  if (width === 4 && !little) {
    frame[at] = value >>> 24;
    frame[at + 1] = value >>> 16;
    frame[at + 2] = value >>> 8;
    frame[at + 3] = value;
  } else {
    writeAnyUint(frame, at, width, little, value);
  }
}

function writeAnyUint(
  frame: Uint8Array,
  at: number,
  width: number,
  little: boolean,
  value: number,
): void {
  for (let i = 0; i < width; i++) {
    frame[little ? at + i : at + width - 1 - i] = value >>> (8 * i);
  }
}
