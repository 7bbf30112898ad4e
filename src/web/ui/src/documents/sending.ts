// Sends a file. By XMLHttpRequest, which, unlike fetch, tells how much of a body has gone out.

import { documentPath, Problem } from "../shared/api";
import { askToSignIn, key } from "../shared/session";
import { shared } from "../shared/texts";
import type { Document } from "./document";
import { mediaTypeOf } from "./ids";

export interface Target {
  id: string;
  collection: string;
  /** The groups that may see it; null: everybody. An empty list is for nobody. */
  visibleTo: readonly string[] | null;
  /** What else is said of it. */
  metadata: Readonly<Record<string, unknown>>;
  /** Where a reader finds the original. */
  url: string | null;
}

/** What a `PUT` answers beside the description of the document. */
export type Receipt = Document & { outcome: "accepted" | "unchanged" | "outdated" | "repeated" };

/** Sends a file as a document. Throws a `Problem`, or an `AbortError` where `signal` aborts. */
export async function send(file: Blob, target: Target, signal: AbortSignal, onSent: (bytes: number) => void): Promise<Receipt> {
  for (let asked = false; ; asked = true) {
    try {
      return await put(file, target, signal, onSent);
    } catch (error) {
      if (asked || !(error instanceof Problem) || error.status !== 401 || !(await askToSignIn(signal))) throw error;
    }
  }
}

function put(file: Blob, { id, collection, visibleTo, metadata, url }: Target, signal: AbortSignal, onSent: (bytes: number) => void): Promise<Receipt> {
  const query = new URLSearchParams({ collection });
  if (visibleTo !== null) query.set("visible_to", visibleTo.join(","));
  if (Object.keys(metadata).length > 0) query.set("metadata", JSON.stringify(metadata));
  if (url !== null) query.set("url", url);
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    signal.addEventListener("abort", abort);
    request.open("PUT", `${documentPath(id)}?${query}`);
    request.setRequestHeader("Content-Type", mediaTypeOf(file.type));
    if (key.value !== null) request.setRequestHeader("Authorization", `Bearer ${key.value}`);
    request.upload.onprogress = (event) => onSent(event.loaded);
    request.onabort = () => reject(new DOMException("The upload was cancelled", "AbortError"));
    // A file that was changed or removed since it was chosen ends like a lost connection.
    request.onerror = () =>
      readable(file).then((ok) =>
        reject(ok ? Problem.ofLostConnection("network error") : new Problem(400, { type: "unreadable-file" })),
      );
    request.onload = () => {
      const body = parse(request.responseText);
      if (request.status >= 200 && request.status < 300 && body !== null) resolve(body as unknown as Receipt);
      else reject(problemOf(request, body));
    };
    request.onloadend = () => signal.removeEventListener("abort", abort);
    request.send(file);
  });
}

function problemOf(request: XMLHttpRequest, body: Record<string, unknown> | null): Problem {
  const after = Number(request.getResponseHeader("Retry-After"));
  const title = shared.problem.status(request.status);
  return new Problem(request.status, body ?? { type: "unreadable", title }, after > 0 ? after : null);
}

function parse(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

async function readable(file: Blob): Promise<boolean> {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
