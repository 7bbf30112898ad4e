// The JSON of `admin/status`, as far as the page reads it. What a part says of itself (`detail`) has the form its
// author gave it, so it is read with care.

export type ActorState = "starting" | "running" | "failed" | "stopped";

export interface Actor {
  name: string;
  state: ActorState;
  depth: number;
  capacity: number;
  capacity_reason: string;
  handled: number;
  failed: number;
  refused: number;
  panics: number;
  restarts: Partial<Record<"panic" | "died" | "lost", number>>;
  busy: number;
  last_recovery_ms?: number;
  last_error?: { message: string; at_ms: number };
  oldest_waiting_ms?: number;
  detail?: Json;
}

/** A node of the tree: an actor, or a part of the service that only holds others. */
export type TreeNode = { part: string; children?: TreeNode[] } & Partial<Actor>;

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Incident {
  at_ms: number;
  actor: string;
  what: "started" | "panicked" | "died" | "lost" | "failed" | "recovered" | "stopped";
  message: string | null;
}

export interface Freshness {
  seq: number;
  lag_ms: number;
  lag_events: number;
}

export interface Status {
  version: string;
  uptime_s: number;
  ready: boolean;
  troubles: string[];
  degraded: string[];
  events: Json;
  store: Json;
  catalog: { documents: number; chunks: number; pending: number; failed: number; seq: number; commit: number } | null;
  freshness: Freshness | null;
  redis: Json;
  usage: Json;
  answers_kept: number | null;
  resident_bytes: number | null;
  cpu_share?: number | null;
  cores?: number;
  incidents?: Incident[];
  actors: TreeNode[];
}

/** A member of an object that may be none. */
export function member(value: Json | undefined, name: string): Json | undefined {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value[name] : undefined;
}

export function numberOf(value: Json | undefined): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

export function textOf(value: Json | undefined): string | null {
  return typeof value === "string" ? value : null;
}
