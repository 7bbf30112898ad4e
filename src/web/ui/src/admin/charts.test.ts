import { expect, it } from "vitest";
import { CHARTS, columnsOf, lonely, readingOf, top } from "./charts";
import { Series } from "./series";

const chart = (id: string) => CHARTS.find((one) => one.id === id) ?? CHARTS[0]!;

it("counts of an interval are shown as rates", () => {
  const series = new Series();
  series.push({ at_ms: 5000, input_tokens: 50, output_tokens: 5, requests_ok: 1, ingested: 2, lag_ms: 40 });
  expect(columnsOf(chart("tokens"), series)).toEqual([[5], [10], [1]]);
  expect(columnsOf(chart("requests"), series).slice(0, 2)).toEqual([[5], [12]]);
});

it("what has an axis of its own is no count", () => {
  const series = new Series();
  series.push({ at_ms: 5000, ingested: 2, lag_ms: 40 });
  const ingest = chart("ingest");
  expect(columnsOf(ingest, series)).toEqual([[5], [24], [40]]);
  expect(ingest.lines.map((line) => readingOf(ingest, line, series))).toEqual(["24", "40 ms"]);
  expect(readingOf(ingest, { name: "absent", label: "", colour: "" }, series)).toBeNull();
});

it("every series that the service keeps is on a chart, except the number behind the lag", () => {
  const shown = CHARTS.flatMap((one) => one.lines.map((line) => line.name));
  expect(new Set(shown).size).toBe(shown.length);
  const kept =
    "first_token_p50_ms first_token_p95_ms token_p50_ms token_p95_ms input_tokens output_tokens requests_ok requests_cancelled requests_refused requests_error waiting running parked cache_evidence cache_answers cache_near cache_shared cache_generated ingested lag_ms resident_bytes cpu_share";
  expect(shown.sort()).toEqual(kept.split(" ").sort());
});

it("a value between gaps is a point", () => {
  expect(lonely([1, null, 2, null, 3, 4, null, 5])).toEqual([0, 2, 7]);
  expect(lonely([null, null])).toEqual([]);
  expect(lonely([0])).toEqual([0]);
});

it("an axis has room above its largest value, and some where there is none", () => {
  expect(top(100, 1)).toBeGreaterThan(100);
  expect(top(null, 5)).toBe(5);
  expect(top(0, 5)).toBe(5);
});
