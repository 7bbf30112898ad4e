// What the supervisor did lately, made readable: an outage from its beginning to its end as one entry, and what
// happened again and again as one with a count.

import type { Incident } from "./status";

export interface Entry {
  at_ms: number;
  actor: string;
  what: Incident["what"];
  message: string | null;
  /** How often it happened in a row, the last time at `last_ms`. */
  times: number;
  last_ms: number;
  /** For an outage: when it was over; `null` while it lasts. */
  recovered_ms?: number | null;
}

/** An outage of an actor. */
export interface Outage {
  actor: string;
  from_ms: number;
  to_ms: number | null;
}

const DOWN: ReadonlySet<Incident["what"]> = new Set(["panicked", "died", "lost", "failed"]);

/** Entries, the newest first. */
export function entries(incidents: readonly Incident[]): Entry[] {
  const found: Entry[] = [];
  const down = new Map<string, Entry[]>();
  for (const { at_ms, actor, what, message } of incidents) {
    if (what === "recovered" || what === "started" || what === "stopped") {
      const over = down.get(actor);
      down.delete(actor);
      if (over) {
        for (const entry of over) entry.recovered_ms = what === "stopped" ? null : at_ms;
        // Told in the entry of the outage itself.
        if (what !== "stopped") continue;
      }
    }
    const before = found.findLast((entry) => entry.actor === actor);
    if (before && before.what === what && before.message === message && DOWN.has(what)) {
      before.times++;
      before.last_ms = at_ms;
      before.recovered_ms = null;
      down.set(actor, [...(down.get(actor) ?? []).filter((entry) => entry !== before), before]);
      continue;
    }
    const entry: Entry = { at_ms, actor, what, message, times: 1, last_ms: at_ms };
    if (DOWN.has(what)) {
      entry.recovered_ms = null;
      down.set(actor, [...(down.get(actor) ?? []), entry]);
    }
    found.push(entry);
  }
  return found.sort((a, b) => b.last_ms - a.last_ms);
}

/** When actors were down, in the order in which that began. */
export function outages(incidents: readonly Incident[]): Outage[] {
  const found: Outage[] = [];
  const open = new Map<string, Outage>();
  for (const { at_ms, actor, what } of incidents) {
    const outage = open.get(actor);
    if (DOWN.has(what)) {
      if (outage) continue;
      const began: Outage = { actor, from_ms: at_ms, to_ms: null };
      open.set(actor, began);
      found.push(began);
    } else if (outage) {
      outage.to_ms = at_ms;
      open.delete(actor);
    }
  }
  return found;
}
