// The table, the page and the chart.

import { cpus } from "node:os";
import { type Findings, type Part, reached } from "./measure.ts";
import type { Row, Spread } from "./measure.ts";
import { PEERS } from "./peers.ts";

/** A part and what it has found. */
export interface Report {
  readonly part: Part;
  readonly findings: Findings;
}

/** Figures for a terminal. */
export function formatTable({ part, findings }: Report): string {
  const rows = findings.rows.map((row) => [
    row.what,
    number(row.figure.median) + row.unit,
    `${number(row.figure.low)} – ${number(row.figure.high)}`,
    goal(row),
    verdict(row),
  ]);
  const rates = findings.rates.map(({ who, value, unit }) => [
    who,
    number(value.median),
    `${number(value.low)} – ${number(value.high)}`,
    unit,
    "",
  ]);
  const missing = findings.missing.map((name) => `Missing: ${name}\n`);
  return `\n${part.title}\n${align([...rows, ...rates])}${missing.join("")}`;
}

/** Writes a file beside this one. It is part of the repository, and is formatted
 * as all of it is. */
export async function keep(name: string, content: string): Promise<void> {
  const url = new URL(name, import.meta.url);
  await Deno.writeTextFile(url, content);
  const args = ["fmt", "--quiet", url.href];
  const { success } = await new Deno.Command("deno", { args }).output();
  if (!success) throw new Error(`${name} could not be formatted`);
}

/** The page that is kept. */
export function formatPage(
  reports: readonly Report[],
  seconds: number,
): string {
  const lines = [
    "# Results",
    "",
    "Written by `deno task bench`, which measures all of this in one run" +
    ` (${
      Math.round(seconds)
    } seconds here): in rounds, by turns, with servers` +
    " and load in processes of their own. A figure is the median of the" +
    " rounds' ratios; beside it stand their first and third quartile.",
    "",
    "What is written by hand (`by_hand.ts`) does one thing, an echo" +
    " in the default layout, and is the limit that the library is held against:" +
    " it has no other layouts, no limits of time and memory, no handlers that" +
    " wait, and no payloads that may be kept. CPU is the server process's, in" +
    " user and in kernel mode; where the load is what limits a rate, CPU still" +
    " says who is cheaper.",
    "",
    ...machine().map((line) => `- ${line}`),
    `- Peers: ${
      Object.values(PEERS).map((peer) => peer.slice("npm:".length)).join(", ")
    }, on the same Deno`,
    "",
    "![Speed beside peers](results.svg)",
    "",
  ];
  for (const { part, findings } of reports) {
    lines.push(`## ${part.title}`, "");
    if (findings.rows.length > 0) {
      lines.push(
        "| What | Median | Quartiles | Goal | |",
        "| --- | ---: | ---: | ---: | --- |",
        ...findings.rows.map((row) =>
          `| ${row.what} | ${number(row.figure.median)}${row.unit} | ${
            quartiles(row.figure)
          } | ${goal(row)} | ${verdict(row)} |`
        ),
        "",
      );
    }
    for (const row of findings.rows) {
      if (!row.profiled || reached(row) !== false) continue;
      lines.push(
        `Not reached: ${lowerFirst(row.what)}. [PROFILE.md](PROFILE.md) shows` +
          " what stands between, and how near it came.",
        "",
      );
    }
    if (findings.rates.length > 0) {
      lines.push(
        "| Who | Median | Quartiles | |",
        "| --- | ---: | ---: | --- |",
        ...findings.rates.map(({ who, value, unit }) =>
          `| ${who} | ${number(value.median)} | ${quartiles(value)} | ${unit} |`
        ),
        "",
      );
    }
    for (const name of findings.missing) {
      lines.push(`Missing, and not compared: ${name}`, "");
    }
  }
  return lines.join("\n");
}

/** Bars of what those parts did that have peers, as an image with a background
 * of its own: an image is not told whether the page around it is dark. */
export function formatChart(reports: readonly Report[]): string {
  const charts = reports.flatMap(({ findings }) => findings.charts ?? []);
  const body: string[] = [];
  let y = 8;
  for (const { title, bars } of charts) {
    y += 28;
    body.push(text(MARGIN, y, title, 'font-weight="600" font-size="14"'));
    y += 4;
    const most = Math.max(...bars.map(({ value }) => value.median));
    for (const { who, value, unit } of bars) {
      y += 24;
      const width = Math.max(1, BAR_WIDTH * value.median / most);
      const ours = who.startsWith("wirepool");
      const weight = ours ? 'font-weight="600"' : "";
      body.push(
        text(LABEL_WIDTH - 8, y, who, `text-anchor="end" ${weight}`),
        `<rect x="${LABEL_WIDTH}" y="${y - 13}" width="${
          width.toFixed(1)
        }" height="17" rx="2" fill="${ours ? OURS : OTHERS}"/>`,
        text(
          LABEL_WIDTH + width + 6,
          y,
          `${number(value.median)} ${unit}`,
          weight,
        ),
      );
    }
    y += 14;
  }
  const source = `${cpuModel()}, Deno ${Deno.version.deno}. ` +
    "Longer is better; medians of rounds in turns.";
  y += 26;
  body.push(text(MARGIN, y, source, `font-size="11" fill="${FAINT}"`));
  const height = y + 16;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="13" fill="${INK}" role="img">
<title>${escape(charts.map(({ title }) => title).join("; "))}</title>
<rect x="0.5" y="0.5" width="${WIDTH - 1}" height="${
    height - 1
  }" rx="8" fill="${PAPER}" stroke="${EDGE}"/>
${body.join("\n")}
</svg>
`;
}

const WIDTH = 860;
const MARGIN = 16;
const LABEL_WIDTH = 326;
const BAR_WIDTH = 336;

const PAPER = "#ffffff";
const EDGE = "#d0d7de";
const INK = "#1f2328";
const FAINT = "#59636e";
const OURS = "#0969da";
const OTHERS = "#a8b1bb";

function text(x: number, y: number, words: string, style: string): string {
  return `<text x="${x.toFixed(1)}" y="${y}" ${style}>${escape(words)}</text>`;
}

function escape(words: string): string {
  return words.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

function lowerFirst(words: string): string {
  return words.charAt(0).toLowerCase() + words.slice(1);
}

/** What the figures come from. */
export function machine(): string[] {
  const { deno, v8 } = Deno.version;
  return [
    `${cpuModel()}, ${navigator.hardwareConcurrency} cores, ` +
    `${Deno.build.os} ${Deno.osRelease()} ${Deno.build.arch}`,
    `Deno ${deno}, V8 ${v8}`,
  ];
}

function cpuModel(): string {
  return cpus()[0]?.model ?? "unknown processor";
}

function goal({ least, most }: Row): string {
  return least !== undefined
    ? `at least ${least}`
    : most !== undefined
    ? `at most ${most}`
    : "";
}

function verdict(row: Row): string {
  const outcome = reached(row);
  return outcome === undefined ? "" : outcome ? "reached" : "not reached";
}

/** Both, in three digits. */
export function quartiles({ low, high }: Spread): string {
  return `${number(low)} – ${number(high)}`;
}

/** Three digits, in full. */
export function number(value: number): string {
  if (Number.isNaN(value)) return "–";
  const rounded = Number(value.toPrecision(3));
  return rounded.toLocaleString("en", { maximumSignificantDigits: 3 });
}

function align(rows: readonly string[][]): string {
  const widths = [0, 1, 2, 3].map((i) =>
    Math.max(...rows.map((row) => row[i]!.length))
  );
  return rows.map(([what, ...cells]) =>
    `  ${what!.padEnd(widths[0]!)}  ${
      cells.map((cell, i) =>
        i < 2 ? cell.padStart(widths[i + 1]!) : cell.padEnd(widths[i + 1] ?? 0)
      ).join("  ").trimEnd()
    }\n`
  ).join("");
}
