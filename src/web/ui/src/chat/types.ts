// What a conversation is, as the page keeps it.

/** A passage that an answer rests on, as the service sends it. */
export interface Source {
  n: number;
  document_id: string;
  title: string;
  section: string[];
  page: number | null;
  url: string | null;
  snippet: string;
  revision: number;
  start: number;
  end: number;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  cached_prompt_tokens: number;
  estimated?: boolean;
}

export type Stage = "retrieving" | "queued" | "reading" | "generating";

export interface Done {
  finish_reason: "stop" | "length" | "cancelled" | "not_found";
  cached: boolean;
  /** How far the index was behind the newest document event, when it was searched. */
  lag_ms?: number | null;
  lag_events?: number | null;
}

/** Why an answer failed: what a problem document says of it. */
export interface Trouble {
  status: number;
  type: string;
  title: string;
  detail: string;
  retryAfter: number | null;
}

export interface Feedback {
  rating: "up" | "down";
  note: string;
}

export interface Answer {
  /** The service's id of it; null until the service took the question. */
  id: string | null;
  /** The last event that is part of what is here. */
  lastEventId: string;
  state: "running" | "done" | "failed";
  stage: Stage | null;
  /** Its place among those that wait, from 1. */
  queuePosition: number | null;
  /** False while the connection is lost and another try is due. */
  connected: boolean;
  text: string;
  sources: Source[];
  usage: Usage | null;
  done: Done | null;
  trouble: Trouble | null;
  feedback: Feedback | null;
  startedMs: number;
  firstTokenMs: number | null;
  endedMs: number | null;
}

export interface Turn {
  id: string;
  question: string;
  /** The collections that may be used; empty: all. */
  collections: string[];
  answer: Answer;
}

export interface Conversation {
  id: string;
  title: string;
  createdMs: number;
  updatedMs: number;
  turns: Turn[];
}

/** A conversation in the list. */
export interface Entry {
  id: string;
  title: string;
  updatedMs: number;
}

/** An id nobody else has. `crypto.randomUUID` is not there where the page came over plain HTTP. */
export function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
