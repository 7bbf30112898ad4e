// One chart over time, on uPlot. The legend is our own: it has the values in words, and fits a phone.

import { effect, signal, useComputed, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { time } from "../shared/format";
import { admin } from "../shared/texts-admin";
import { colour, onColours } from "../shared/theme";
import { columnsOf, lonely, readingOf, top, type Chart, type Line } from "./charts";
import { samples, series } from "./live";

const t = admin.charts;
const HEIGHT = 150;
const POWERS_OF_TWO = Array.from({ length: 34 }, (_, n) => 2 ** (n + 10));
const FONT = "11px system-ui, sans-serif";

/** Minutes that all charts show. */
export const span = signal(60);

const sync = uPlot.sync("admin");

export function ChartCard({ chart }: { chart: Chart }) {
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(null);
  /** The sample under the pointer; `null` where it is elsewhere. */
  const at = useSignal<number | null>(null);
  const hidden = useSignal<ReadonlySet<string>>(new Set());

  useEffect(() => {
    const box = frame.current;
    if (!box) return;
    const build = () => {
      plot.current?.destroy();
      plot.current = new uPlot(optionsOf(chart, box.clientWidth, hidden.peek(), (index) => (at.value = index)), columnsOf(chart, series), box);
    };
    build();
    const resized = new ResizeObserver(() => {
      const width = box.clientWidth;
      if (plot.current && width > 0 && width !== plot.current.width) plot.current.setSize({ width, height: HEIGHT });
    });
    resized.observe(box);
    const endColours = onColours(build);
    let due = 0;
    const endData = effect(() => {
      void samples.value;
      void span.value;
      // Once a frame at most: samples may come in a burst, after the page was asleep for one.
      due ||= requestAnimationFrame(() => {
        due = 0;
        plot.current?.setData(columnsOf(chart, series));
      });
    });
    const endHidden = hidden.subscribe((names) => {
      chart.lines.forEach((line, index) => plot.current?.setSeries(index + 1, { show: !names.has(line.name) }));
    });
    return () => {
      resized.disconnect();
      endColours();
      endData();
      cancelAnimationFrame(due);
      endHidden();
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);

  return (
    <section class="card chart" aria-label={chart.title}>
      <header>
        <h3>{chart.title}</h3>
        <Moment chart={chart} at={at} />
      </header>
      <ul class="legend">
        {chart.lines.map((line) => {
          const shown = !hidden.value.has(line.name);
          return (
            <li key={line.name}>
              <button
                type="button"
                aria-pressed={shown}
                title={t.toggle(line.label)}
                onClick={() => {
                  const names = new Set(hidden.value);
                  if (shown) names.add(line.name);
                  else names.delete(line.name);
                  hidden.value = names;
                }}
              >
                <i style={{ background: `var(${line.colour})` }} />
                {line.label} <Value chart={chart} line={line} at={at} />
              </button>
            </li>
          );
        })}
      </ul>
      <div class="plot" ref={frame} aria-hidden="true" />
    </section>
  );
}

type At = { value: number | null };

function Moment({ chart, at }: { chart: Chart; at: At }) {
  const text = useComputed(() => {
    void samples.value;
    const moment = at.value === null ? null : series.time_ms(at.value);
    return moment === null ? (chart.unit ?? "") : time(moment);
  });
  return <span class="muted small">{text}</span>;
}

function Value({ chart, line, at }: { chart: Chart; line: Line; at: At }) {
  const text = useComputed(() => {
    void samples.value;
    return readingOf(chart, line, series, at.value ?? undefined) ?? t.none;
  });
  return <b>{text}</b>;
}

function optionsOf(chart: Chart, width: number, hidden: ReadonlySet<string>, onCursor: (index: number | null) => void): uPlot.Options {
  const text = colour("--muted");
  const grid = { stroke: colour("--grid"), width: 1 };
  const axis = (scale: string, read: (value: number) => string, side: 1 | 3): uPlot.Axis => ({
    scale, side, size: 54, gap: 4, font: FONT, stroke: text, space: 28,
    grid: side === 3 ? grid : { show: false },
    ticks: { show: false },
    ...(chart.binary && scale === "y" && { incrs: POWERS_OF_TWO }),
    values: (_, splits) => splits.map((value) => (value === null ? "" : read(value))),
  });
  const range = (least: number): uPlot.Scale.Range => (_, __, largest) => [0, top(largest, least)];
  const right = chart.lines.some((line) => line.right);
  return {
    width: Math.max(width, 120),
    height: HEIGHT,
    padding: [8, right ? 0 : 12, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: sync.key, setSeries: false }, drag: { x: false, y: false }, points: { size: 6 }, y: false },
    scales: {
      x: {
        range: () => {
          const last = (series.time_ms() ?? Date.now()) / 1000;
          return [last - span.peek() * 60, last];
        },
      },
      y: { range: range(chart.least ?? 1) },
      ...(right && { right: { range: range(10) } }),
    },
    axes: [
      {
        stroke: text, font: FONT, size: 24, gap: 4, space: 56, grid: { show: false },
        ticks: { ...grid, size: 4 },
        values: (_, splits) => splits.map((value) => time(value * 1000).slice(0, 5)),
      },
      axis("y", chart.read, 3),
      ...(right ? [axis("right", chart.readRight ?? chart.read, 1)] : []),
    ],
    series: [
      {},
      ...chart.lines.map((line, at): uPlot.Series => {
        const stroke = colour(line.colour);
        return {
          label: line.label,
          scale: line.right ? "right" : "y",
          show: !hidden.has(line.name),
          stroke,
          width: 1.5,
          // A single line has an area below it; several would hide each other.
          ...(chart.lines.length === 1 && { fill: colour("--line-fill") }),
          points: { show: true, size: 3, fill: stroke, stroke, filter: (plot) => lonely(plot.data[at + 1] as (number | null)[]) },
        };
      }),
    ],
    hooks: { setCursor: [(plot) => onCursor(plot.cursor.left === undefined || plot.cursor.left < 0 ? null : (plot.cursor.idx ?? null))] },
  };
}
