// What the service tells about itself from second to second. The status is taken apart here, so that a part of the page
// is drawn again only when what it shows has changed, not each second.

import { batch, computed, effect, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { get, Problem } from "../shared/api";
import { key, signingIn } from "../shared/session";
import { follow, type ServerEvent } from "../shared/sse";
import { Rates } from "./rates";
import { Series, type History, type Sample } from "./series";
import type { Status, TreeNode } from "./status";
import { byPath, rows, sameRows, type Row } from "./tree";

export type Connection = "connecting" | "live" | "lost" | "paused";

export const connection = signal<Connection>("connecting");
/** Why the service does not let us look. */
export const refusal = signal<Problem | null>(null);
export const status = signal<Status | null>(null);
/** When the last status came. */
export const told_ms = signal(0);

export const series = new Series();
/** Grows with each sample: what draws the series listens to this. */
export const samples = signal(0);
export const historyProblem = signal<Problem | null>(null);

/** All rows of the tree; another list only when a row comes or goes. */
export const tree = signal<readonly Row[]>([]);

/** An actor, or a part that holds others, with how many messages it answers in a second. */
export interface View {
  node: TreeNode;
  rate: number | null;
}

const views = new Map<string, Signal<View>>();
const rates = new Rates();

export function viewOf(path: string): ReadonlySignal<View> | undefined {
  return views.get(path);
}

/** The growth of a counter in a second, as it was at the last status. */
export function rateOf(counter: string): number | null {
  void status.value;
  return rates.of(counter);
}

/** A part of the status that is equal to itself as long as what it says is the same. */
export function part<T>(pick: (status: Status) => T): ReadonlySignal<T | null> {
  let known = "";
  let value: T | null = null;
  return computed(() => {
    const picked = status.value === null ? null : pick(status.value);
    const text = JSON.stringify(picked) ?? "";
    if (text !== known) {
      known = text;
      value = picked;
    }
    return value;
  });
}

/** Nothing for so long means that the connection is dead, though nobody said so. */
const SILENCE_MS = 10_000;

/** Keeps all of this up to date until it is told to end. */
export function watch(): () => void {
  let current: AbortController | null = null;
  let heard = performance.now();

  const begin = (state: Connection) => {
    current?.abort();
    const mine = new AbortController();
    current = mine;
    heard = performance.now();
    connection.value = state;
    refusal.value = null;
    follow("admin/events", {
      signal: mine.signal,
      onConnection: (stands) => {
        heard = performance.now();
        // What was missed is in the history.
        if (stands) void loadHistory(mine.signal);
        else connection.value = "lost";
      },
      onEvent: (event) => {
        heard = performance.now();
        take(event);
      },
    }).catch((error: unknown) => {
      if (!mine.signal.aborted) refusal.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
    });
  };

  // A page that nobody looks at asks for nothing; the history fills the gap.
  const onVisibility = () => {
    if (document.hidden) {
      current?.abort();
      connection.value = "paused";
    } else if (connection.value === "paused") begin("connecting");
  };
  document.addEventListener("visibilitychange", onVisibility);
  const watchdog = setInterval(() => {
    // Nothing comes while somebody looks for their key.
    if (signingIn.value) heard = performance.now();
    if (document.hidden || refusal.value !== null || performance.now() - heard < SILENCE_MS) return;
    begin("lost");
  }, 1000);
  // Another key may see what this one may not.
  const onKey = effect(() => {
    void key.value;
    if (document.hidden) connection.value = "paused";
    else begin("connecting");
  });
  return () => {
    onKey();
    clearInterval(watchdog);
    document.removeEventListener("visibilitychange", onVisibility);
    current?.abort();
  };
}

function take({ event, data }: ServerEvent): void {
  if (event === "status") takeStatus(JSON.parse(data) as Status);
  else if (event === "sample" && series.push(JSON.parse(data) as Sample)) samples.value++;
}

export function takeStatus(next: Status): void {
  const nodes = byPath(next.actors);
  const counters = new Map<string, number>();
  for (const [path, node] of nodes) {
    if (node.handled !== undefined) counters.set(path, node.handled);
    for (const [name, value] of Object.entries(totalsOf(node))) counters.set(`${path}#${name}`, value);
  }
  rates.add(Date.now(), counters);
  batch(() => {
    connection.value = "live";
    told_ms.value = Date.now();
    status.value = next;
    const found = rows(next.actors);
    if (!sameRows(found, tree.value)) tree.value = found;
    for (const [path, node] of nodes) {
      const { children: _, ...own } = node;
      const rate = rates.of(path);
      const view = { node: own, rate: rate === null ? null : Math.round(rate * 10) / 10 };
      const known = views.get(path);
      if (known === undefined) views.set(path, signal(view));
      else if (JSON.stringify(known.value) !== JSON.stringify(view)) known.value = view;
    }
    for (const path of views.keys()) if (!nodes.has(path)) views.delete(path);
  });
}

/** Counters that an engine keeps beside those of its actor. */
function totalsOf({ detail }: TreeNode): Record<string, number> {
  if (detail === null || typeof detail !== "object" || Array.isArray(detail)) return {};
  const totals = detail["totals"];
  if (totals === null || typeof totals !== "object" || Array.isArray(totals)) return {};
  return Object.fromEntries(Object.entries(totals).filter((entry): entry is [string, number] => typeof entry[1] === "number"));
}

async function loadHistory(signal: AbortSignal): Promise<void> {
  try {
    series.load(await get<History>("admin/series", { signal, cache: "no-store" }));
    historyProblem.value = null;
    samples.value++;
  } catch (error) {
    if (!signal.aborted) historyProblem.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
  }
}
