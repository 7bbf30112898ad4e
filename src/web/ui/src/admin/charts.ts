// Which charts there are: the series of each, how its values are scaled and read.

import { bytes, compact, duration, number } from "../shared/format";
import { admin } from "../shared/texts-admin";
import type { Series } from "./series";

const t = admin.charts;

export interface Line {
  /** Name of the series. */
  name: string;
  label: string;
  /** A colour token of the page. */
  colour: string;
  /** Read on an axis of its own, at the right. */
  right?: boolean;
}

export interface Chart {
  id: string;
  title: string;
  /** Beside the title, where the numbers alone do not say it. */
  unit?: string;
  lines: readonly Line[];
  /** What a value is multiplied with; counts are those of one interval. */
  scale?: (interval_ms: number) => number;
  read: (value: number) => string;
  readRight?: (value: number) => string;
  /** Steps of the axis are powers of two. */
  binary?: boolean;
  /** The top of the axis is at least this. */
  least?: number;
}

const perSecond = (interval_ms: number) => 1000 / interval_ms;
const perMinute = (interval_ms: number) => 60_000 / interval_ms;
const short = (value: number) => (Math.abs(value) >= 1000 ? compact(value) : number(value));
const line = (name: string, label: string, colour: string, more: Partial<Line> = {}): Line => ({ name, label, colour, ...more });

export const CHARTS: readonly Chart[] = [
  { id: "first-token", title: t.first_token, lines: [line("first_token_p50_ms", t.series.p50, "--line-1"), line("first_token_p95_ms", t.series.p95, "--line-3")], read: duration, least: 10 },
  { id: "per-token", title: t.per_token, lines: [line("token_p50_ms", t.series.p50, "--line-1"), line("token_p95_ms", t.series.p95, "--line-3")], read: duration, least: 1 },
  { id: "tokens", title: t.tokens, unit: t.perSecond, lines: [line("input_tokens", t.series.input, "--line-2"), line("output_tokens", t.series.output, "--line-1")], scale: perSecond, read: short, least: 1 },
  {
    id: "requests", title: t.requests, unit: t.perMinute, scale: perMinute, read: short, least: 1,
    lines: [line("requests_ok", t.series.ok, "--line-1"), line("requests_cancelled", t.series.cancelled, "--line-6"), line("requests_refused", t.series.refused, "--line-3"), line("requests_error", t.series.error, "--line-5")],
  },
  { id: "queue", title: t.queue, lines: [line("waiting", t.series.waiting, "--line-3"), line("running", t.series.running, "--line-1"), line("parked", t.series.parked, "--line-6")], read: short, least: 1 },
  {
    id: "cache", title: t.cache, unit: t.perMinute, scale: perMinute, read: short, least: 1,
    lines: [
      line("cache_answers", t.series.answers, "--line-1"), line("cache_evidence", t.series.evidence, "--line-2"), line("cache_near", t.series.near, "--line-4"),
      line("cache_shared", t.series.shared, "--line-6"), line("cache_generated", t.series.generated, "--line-3"),
    ],
  },
  {
    id: "ingest", title: t.ingest, unit: t.perMinute, scale: perMinute, read: short, readRight: duration, least: 1,
    lines: [line("ingested", t.series.ingested, "--line-1"), line("lag_ms", t.series.lag_ms, "--line-3", { right: true })],
  },
  { id: "memory", title: t.memory, lines: [line("resident_bytes", t.series.resident, "--line-2")], read: bytes, binary: true, least: 1 << 20 },
  { id: "processor", title: t.processor, unit: t.cores, lines: [line("cpu_share", t.series.cpu, "--line-4")], read: number, least: 0.1 },
];

/** Times and values of a chart, scaled. */
export function columnsOf(chart: Chart, series: Series): [number[], ...(number | null)[][]] {
  const factors = new Map(chart.lines.map((one) => [one.name, factorOf(chart, one, series)]));
  return series.columns([...factors.keys()], (name, value) => value * (factors.get(name) ?? 1));
}

/** A value of a line in words: the newest, or that at a place in the columns; `null` where there is none. */
export function readingOf(chart: Chart, line: Line, series: Series, at?: number): string | null {
  const value = series.value(line.name, at);
  if (value === null) return null;
  return (line.right ? (chart.readRight ?? chart.read) : chart.read)(value * factorOf(chart, line, series));
}

function factorOf(chart: Chart, line: Line, series: Series): number {
  return line.right ? 1 : (chart.scale?.(series.interval_ms) ?? 1);
}

/** Places of values that have none beside them: no line leads through them, so each is drawn as a point. */
export function lonely(values: readonly (number | null | undefined)[]): number[] {
  const found: number[] = [];
  for (let at = 0; at < values.length; at++) {
    if (values[at] == null) continue;
    if ((values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null) found.push(at);
  }
  return found;
}

/** The top of an axis: a little above the largest value, never less than `least`. */
export function top(largest: number | null, least: number): number {
  return Math.max(least, (largest ?? 0) * 1.08);
}
