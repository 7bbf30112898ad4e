// The time series behind the charts: an hour of samples, then the oldest goes for each that comes, so that a page that
// stays open for days holds no more than one that was just opened.

/** What `admin/series` answers. */
export interface History {
  interval_ms: number;
  at_ms: number[];
  series: Record<string, (number | null)[]>;
}

/** What an event `sample` says: a time and a value by the name of each series. */
export type Sample = { at_ms: number } & Record<string, number | null>;

/** Samples kept: an hour of one each five seconds. */
export const KEPT = 720;

export class Series {
  interval_ms = 5000;
  private times: number[] = [];
  private values = new Map<string, (number | null)[]>();

  constructor(private readonly kept = KEPT) {}

  get length(): number {
    return this.times.length;
  }

  /** Takes over what the service kept; samples that are newer stay. */
  load(history: History): void {
    const newer = this.samplesAfter(history.at_ms.at(-1) ?? -Infinity);
    this.interval_ms = history.interval_ms;
    this.times = [];
    this.values = new Map();
    const names = Object.keys(history.series);
    const first = Math.max(0, history.at_ms.length - this.kept);
    for (let at = first; at < history.at_ms.length; at++) {
      const at_ms = history.at_ms[at];
      if (at_ms === undefined) continue;
      const sample: Record<string, number | null> = {};
      for (const name of names) sample[name] = history.series[name]?.[at] ?? null;
      this.push({ ...sample, at_ms });
    }
    for (const sample of newer) this.push(sample);
  }

  /** Adds a sample; one that is not newer than the last is known already. Returns whether it was added. */
  push(sample: Sample): boolean {
    const last = this.times.at(-1);
    if (last !== undefined && sample.at_ms <= last) return false;
    // Where samples are missing there is a gap, not a line across it.
    if (last !== undefined && sample.at_ms - last > this.interval_ms * 2.5) this.append({ at_ms: last + this.interval_ms });
    this.append(sample);
    return true;
  }

  /** Times in seconds and the values of some series, as a chart takes them. */
  columns(names: readonly string[], scale: (name: string, value: number) => number = (_, value) => value): [number[], ...(number | null)[][]] {
    const columns = names.map((name) => {
      const values = this.values.get(name);
      return this.times.map((_, at) => {
        const value = values?.[at] ?? null;
        return value === null ? null : scale(name, value);
      });
    });
    return [this.times.map((time) => time / 1000), ...columns];
  }

  /** A value of a series: the newest, or that at a place in the columns. */
  value(name: string, at = -1): number | null {
    return this.values.get(name)?.at(at) ?? null;
  }

  /** When a sample was taken: the newest, or that at a place in the columns. */
  time_ms(at = -1): number | null {
    return this.times.at(at) ?? null;
  }

  private append(sample: Sample): void {
    for (const name of Object.keys(sample)) {
      if (name === "at_ms" || this.values.has(name)) continue;
      this.values.set(name, new Array<number | null>(this.times.length).fill(null));
    }
    this.times.push(sample.at_ms);
    for (const [name, values] of this.values) {
      const value = sample[name];
      values.push(typeof value === "number" && Number.isFinite(value) ? value : null);
    }
    if (this.times.length <= this.kept) return;
    this.times.shift();
    for (const values of this.values.values()) values.shift();
  }

  private samplesAfter(time: number): Sample[] {
    const from = this.times.findIndex((at_ms) => at_ms > time);
    if (from < 0) return [];
    return this.times.slice(from).map((at_ms, offset) => {
      const sample: Record<string, number | null> = {};
      for (const [name, values] of this.values) sample[name] = values[from + offset] ?? null;
      return { ...sample, at_ms };
    });
  }
}
