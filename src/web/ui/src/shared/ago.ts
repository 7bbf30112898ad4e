// Times as people speak of them.

import { date } from "./format";
import { shared } from "./texts";

const t = shared.ago;

/** How long ago something was: "now", "3 min ago", then a date. */
export function ago(atMs: number, nowMs: number = Date.now()): string {
  const seconds = Math.round((nowMs - atMs) / 1000);
  if (seconds < 10) return t.now;
  if (seconds < 60) return t.seconds(seconds);
  if (seconds < 3600) return t.minutes(Math.floor(seconds / 60));
  if (seconds < 86_400) return t.hours(Math.floor(seconds / 3600));
  return date(atMs);
}
