// Rates from counters that only grow: how much each grew over the last seconds.

interface Reading {
  at_ms: number;
  counters: ReadonlyMap<string, number>;
}

/** Keeps readings of the last `window_ms`, and one before it to measure from. */
export class Rates {
  private readings: Reading[] = [];

  constructor(private readonly window_ms = 10_000) {}

  add(at_ms: number, counters: ReadonlyMap<string, number>): void {
    const last = this.readings.at(-1);
    // A clock that was set back would give negative spans.
    if (last && at_ms <= last.at_ms) this.readings = [];
    // A counter that shrinks is that of another process: what was before says nothing of it.
    else if (last && [...counters].some(([name, value]) => value < (last.counters.get(name) ?? 0))) this.readings = [];
    this.readings.push({ at_ms, counters });
    while (this.readings.length > 2 && (this.readings[1]?.at_ms ?? at_ms) <= at_ms - this.window_ms) this.readings.shift();
  }

  /** By how much a counter grows in a second; `null` as long as there is nothing to measure from. */
  of(name: string): number | null {
    const last = this.readings.at(-1);
    const now = last?.counters.get(name);
    if (!last || now === undefined) return null;
    const from = this.readings.find((reading) => reading.counters.has(name));
    const before = from?.counters.get(name);
    if (!from || from === last || before === undefined) return null;
    return ((now - before) * 1000) / (last.at_ms - from.at_ms);
  }
}
