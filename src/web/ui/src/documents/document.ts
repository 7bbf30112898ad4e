// A document as the service describes it, and where it is found.

import { documentPath, get, Problem } from "../shared/api";

export type Progress = "received" | "parsed" | "embedded" | "visible" | "failed" | "deleted";

export interface Document {
  id: string;
  status: Progress;
  seq: number;
  revision: number;
  /** Why the last version of it failed. */
  reason?: string;
  times: Partial<Record<"received_ms" | "parsed_ms" | "embedded_ms" | "stored_ms" | "failed_ms" | "visible_ms" | "published_ms", number>>;
  metadata: Record<string, unknown>;
  /** The groups that may see it; absent where everybody may. */
  visible_to?: string[] | null;
  // Of the version that is served; absent where there is none yet.
  served_revision?: number;
  title?: string | null;
  url?: string | null;
  collection?: string;
  media_type?: string | null;
  format?: string;
  chunks?: number;
  updated_ms?: number;
  text?: string | null;
}

/** What the service says of a document; `null` where there is none. */
export async function find(id: string, signal?: AbortSignal): Promise<Document | null> {
  try {
    // Not its text, which may be long: this is asked again and again.
    return await get<Document>(`${documentPath(id)}?text=false`, { cache: "no-store", ...(signal && { signal }) });
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return null;
    throw error;
  }
}
