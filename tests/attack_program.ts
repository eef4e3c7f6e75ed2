/**
 * Attacks a server with the default options, one attack after the other, and
 * says what it held and what honest clients lost: `deno task attack [KIND...]`.
 */
import {
  type Attack,
  ATTACK_NAMES,
  measureAttack,
  type Rate,
} from "./attack_support.ts";
import { MIB } from "./bytes_support.ts";

const CONNECTIONS = 1000;
const SECONDS = 16;
/** By how much the server may grow: the default of `maxBuffered`, and 64 MiB. */
const MOST = (256 + 64) * MIB;
/** What is left of the throughput, at least. */
const LEAST = 0.5;

function isAttack(name: string): name is Attack {
  return ATTACK_NAMES.includes(name as Attack);
}

const names = Deno.args.length > 0 ? Deno.args : ATTACK_NAMES;
let failed = false;
for (const name of names) {
  if (!isAttack(name)) {
    console.error(`No such attack: ${name}; there are ${ATTACK_NAMES}`);
    Deno.exit(2);
  }
  const outcome = await measureAttack(name, CONNECTIONS, SECONDS);
  const { before, peak, alone, beside, newcomers, stats } = outcome;
  const ratios = beside.map(({ rate }, i) => rate / alone[i]!.rate);
  const lost = beside.some(({ failed }) => failed > 0) ||
    newcomers.includes(Infinity);
  // Where the system does not say what a process holds, nothing is to be held
  // against the bound.
  const good = !(peak - before > MOST) && !lost && Math.min(...ratios) >= LEAST;
  failed ||= !good;
  console.log(
    `${name}: ${outcome.connections} connections, ${stats.totalConnections} in all, ${stats.errors} cut`,
  );
  console.log(
    `  resident ${mib(before)} before, ${mib(peak - before)} more at most, of ${
      mib(MOST)
    }`,
  );
  for (const [i, rates] of beside.entries()) {
    console.log(
      `  ${rates.size} bytes: ${ratios[i]!.toFixed(2)} of ${show(alone[i]!)}; ${
        show(rates)
      }; a newcomer waited ${newcomers[i]!.toFixed(0)} ms`,
    );
  }
  console.log(good ? "  good" : "  NOT GOOD");
}
Deno.exit(failed ? 1 : 0);

function show({ rate, longest, failed }: Rate): string {
  return `${rate.toPrecision(3)} a second, the longest ${
    longest.toFixed(0)
  } ms, ${failed} failed`;
}

function mib(bytes: number): string {
  return `${Math.round(bytes / MIB)} MiB`;
}
