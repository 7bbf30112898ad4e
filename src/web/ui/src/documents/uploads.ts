// The uploads of this page: what was chosen, how far each is, and how it ended.

import { computed, signal, type Signal } from "@preact/signals";
import { Problem } from "../shared/api";
import { find, type Document } from "./document";
import { Follower } from "./following";
import { idOf } from "./ids";
import { Queue } from "./queue";
import { send } from "./sending";
import type { Found } from "./traverse";

/** `unwatched`: the service took it, and does not say how far it is. */
export type Stage = "waiting" | "sending" | "received" | "parsed" | "embedded" | "visible" | "unchanged" | "unwatched" | "failed" | "cancelled";

export interface Upload {
  key: number;
  id: string;
  collection: string;
  visibleTo: readonly string[] | null;
  metadata: Readonly<Record<string, unknown>>;
  url: string | null;
  file: File;
  stage: Signal<Stage>;
  sent: Signal<number>;
  /** Why it failed, or waits. */
  reason: Signal<string | null>;
}

export interface Place {
  collection: string;
  /** The groups that may see it; null: everybody. */
  visibleTo: readonly string[] | null;
  /** Ids begin with this. */
  prefix: string;
}

/** Files sent at once: enough to fill a connection, few enough to see them move. */
const AT_ONCE = 3;
/** How often a file is sent again by itself that the service had no room for. */
const TRIES = 5;

export const uploads = signal<readonly Upload[]>([]);
/** How many are at each stage; kept beside the uploads, as there may be thousands. */
export const counts = signal<Readonly<Partial<Record<Stage, number>>>>({});
/** Those that failed, the last one first. */
export const failures = signal<readonly Upload[]>([]);
/** Grows whenever a document has come or changed. */
export const settled = signal(0);

const sum = (stages: readonly Stage[]) => stages.reduce((total, stage) => total + (counts.value[stage] ?? 0), 0);
export const done = computed(() => sum(["visible", "unchanged", "unwatched"]));
export const failed = computed(() => sum(["failed", "cancelled"]));
export const busy = computed(() => sum(["waiting", "sending", "received", "parsed", "embedded"]));

const queue = new Queue(AT_ONCE);
const follower = new Follower(find);
let next = 0;

/** Words for what the page itself finds wrong; set by the page, which has the texts. */
export interface Reasons {
  busy: (seconds: number) => string;
  unreadable: string;
  gone: string;
  unwatched: string;
  of: (problem: Problem) => string;
}

/** Uploads files; returns the paths that cannot be the id of a document. */
export function add(found: readonly Found[], place: Place, reasons: Reasons): string[] {
  const without: string[] = [];
  const more: Upload[] = [];
  for (const { path, file } of found) {
    const id = idOf(path, place.prefix);
    if (id === null) without.push(path);
    else more.push(create(id, file, place));
  }
  // The newest first, as that is what one looks for.
  uploads.value = [...more, ...uploads.value];
  for (const upload of more) enqueue(upload, reasons);
  return without;
}

/** Uploads one file as a document that exists already. */
export function replace(document: Document, file: File, reasons: Reasons): void {
  const place = { collection: document.collection ?? "default", visibleTo: document.visible_to ?? null, prefix: "" };
  // All that is said of it stays, but for what stands beside it, and for the folder that it came from: it is from here now.
  const { visible_to: _groups, folder: _folder, ...metadata } = document.metadata;
  const upload = create(document.id, file, place, { url: document.url ?? null, metadata });
  uploads.value = [upload, ...uploads.value];
  enqueue(upload, reasons);
}

/** Takes back what has not been sent whole. */
export function cancel(upload: Upload): void {
  if (upload.stage.value !== "waiting" && upload.stage.value !== "sending") return;
  queue.cancel(upload.key);
  move(upload, "cancelled", null);
}

export function retry(upload: Upload, reasons: Reasons): void {
  if (upload.stage.value !== "failed" && upload.stage.value !== "cancelled") return;
  move(upload, "waiting", null);
  upload.sent.value = 0;
  enqueue(upload, reasons);
}

/** Takes those off the list that are over. */
export function clear(): void {
  const left = uploads.value.filter((upload) => !isOver(upload.stage.value));
  const gone = uploads.value.filter((upload) => isOver(upload.stage.value));
  for (const upload of gone) count(upload.stage.value, -1);
  failures.value = [];
  uploads.value = left;
}

export function isOver(stage: Stage): boolean {
  return ["visible", "unchanged", "unwatched", "failed", "cancelled"].includes(stage);
}

function create(id: string, file: File, { collection, visibleTo }: Place, about: Pick<Upload, "url" | "metadata"> = { url: null, metadata: {} }): Upload {
  count("waiting", 1);
  return { key: next++, id, file, collection, visibleTo, ...about, stage: signal<Stage>("waiting"), sent: signal(0), reason: signal<string | null>(null) };
}

function enqueue(upload: Upload, reasons: Reasons): void {
  queue.add(upload.key, (signal) => run(upload, signal, reasons));
}

async function run(upload: Upload, signal: AbortSignal, reasons: Reasons): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      move(upload, "sending", null);
      const receipt = await send(upload.file, upload, signal, (bytes) => (upload.sent.value = Math.min(bytes, upload.file.size)));
      upload.sent.value = upload.file.size;
      if (receipt.outcome !== "accepted" && tell(upload, receipt, reasons)) return;
      move(upload, "received", null);
      follow(upload, receipt.seq, reasons);
      return;
    } catch (error) {
      if (signal.aborted) return;
      const problem = error instanceof Problem ? error : Problem.ofLostConnection(error);
      const again = (problem.status === 429 || problem.status === 503) && tries < TRIES;
      if (!again) return move(upload, "failed", problem.type === "unreadable-file" ? reasons.unreadable : reasons.of(problem));
      const wait_s = problem.retryAfter ?? 2 ** tries;
      upload.sent.value = 0;
      move(upload, "waiting", reasons.busy(wait_s));
      await pause(wait_s * 1000, signal);
      if (signal.aborted) return;
    }
  }
}

function follow(upload: Upload, seq: number, reasons: Reasons): void {
  follower.follow({
    id: upload.id,
    // A reply may be older than the upload where another replica gave it.
    tell: (document) => (document !== null && document.seq < seq ? false : tell(upload, document, reasons)),
    lost: (problem) => move(upload, "unwatched", problem.status === 403 ? reasons.unwatched : reasons.of(problem)),
  });
}

/** Notes how far a document is; true where it is settled. */
function tell(upload: Upload, document: (Document & { outcome?: string }) | null, reasons: Reasons): boolean {
  if (document === null || document.status === "deleted") move(upload, "failed", reasons.gone);
  else if (document.status === "failed") move(upload, "failed", document.reason ?? null);
  else if (document.status === "visible") move(upload, document.outcome === "unchanged" ? "unchanged" : "visible", null);
  else {
    move(upload, document.status, null);
    return false;
  }
  settled.value++;
  return true;
}

function move(upload: Upload, stage: Stage, reason: string | null): void {
  upload.reason.value = reason;
  if (upload.stage.value === stage) return;
  count(upload.stage.value, -1);
  count(stage, 1);
  if (upload.stage.value === "failed") failures.value = failures.value.filter((one) => one !== upload);
  if (stage === "failed") failures.value = [upload, ...failures.value];
  upload.stage.value = stage;
}

function count(stage: Stage, by: number): void {
  counts.value = { ...counts.value, [stage]: (counts.value[stage] ?? 0) + by };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
