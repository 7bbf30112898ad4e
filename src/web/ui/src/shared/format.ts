// Numbers, sizes and times as people read them. English, and the reader's own time zone.

const LOCALE = "en";

/** Picks the word for a count: `plural(2, "token", "tokens")` is "2 tokens". */
export const plural = (count: number, one: string, many: string): string => `${number(count)} ${count === 1 ? one : many}`;

export const number = (value: number): string => value.toLocaleString(LOCALE, { maximumFractionDigits: Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0 });

/** Short for small places: 1.2k, 3.4M. */
export const compact = (value: number): string => value.toLocaleString(LOCALE, { notation: "compact", maximumFractionDigits: 1 });

export const percent = (share: number): string => `${number(share * 100)} %`;

export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let value = count;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at++;
  }
  return `${number(at === 0 ? Math.round(value) : value)} ${units[at]}`;
}

/** A length of time, by its two largest units at most: "340 ms", "1.5 s", "2 min 5 s", "3 h 10 min". */
export function duration(ms: number): string {
  if (ms < 0.995) return `${number(ms)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const pairs: [number, string, number, string][] = [
    [60, "min", 1, "s"],
    [3600, "h", 60, "min"],
    [86_400, "d", 3600, "h"],
  ];
  const [large, largeName, small, smallName] = pairs.findLast(([size]) => seconds >= size) ?? pairs[0]!;
  const rest = Math.floor((seconds % large) / small);
  return `${Math.floor(seconds / large)} ${largeName}${rest > 0 ? ` ${rest} ${smallName}` : ""}`;
}

export const date = (atMs: number): string => new Date(atMs).toLocaleDateString(LOCALE, { day: "numeric", month: "short", year: "numeric" });

export const time = (atMs: number): string => new Date(atMs).toLocaleTimeString(LOCALE, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export const dateTime = (atMs: number): string => `${date(atMs)}, ${time(atMs)}`;
