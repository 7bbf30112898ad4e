// Requests to the service the page came from, with the key of who is signed in. What is not a success is thrown
// as a `Problem`, also a connection that is lost. All paths are relative: a proxy may put answerd below a path.

import { askToSignIn, key } from "./session";
import { shared } from "./texts";

const t = shared.problem;

/** A problem document (RFC 9457), or a connection that does not stand. */
export class Problem extends Error {
  /** 0 where there is no response. */
  readonly status: number;
  /** The last part of the problem's `type`, such as `over-budget`; `offline` and `unreachable` without a response. */
  readonly type: string;
  readonly title: string;
  readonly detail: string;
  /** Seconds after which another try makes sense. */
  readonly retryAfter: number | null;
  /** The whole problem document. */
  readonly body: Record<string, unknown>;

  constructor(status: number, body: Record<string, unknown>, retryAfter: number | null = null) {
    const text = (name: string) => (typeof body[name] === "string" ? body[name] : "");
    super(text("title"));
    this.name = "Problem";
    this.status = status;
    this.type = text("type").replace(/^urn:answerd:problem:/, "");
    this.title = text("title");
    this.detail = text("detail");
    const stated = body["retry_after_s"];
    this.retryAfter = retryAfter ?? (typeof stated === "number" ? stated : null);
    this.body = body;
  }

  /** Whether the same request may succeed later, without a change to it. */
  get mayPass(): boolean {
    return this.status === 0 || this.status === 429 || this.status === 408 || this.status >= 500;
  }

  static async ofResponse(response: Response): Promise<Problem> {
    const after = Number(response.headers.get("Retry-After"));
    const retryAfter = Number.isFinite(after) && after > 0 ? after : null;
    const body: unknown = await response.json().catch(() => null);
    if (typeof body === "object" && body !== null) return new Problem(response.status, body as Record<string, unknown>, retryAfter);
    // A proxy in between answers in its own words, which are of no use to a reader.
    return new Problem(response.status, { type: "unreadable", title: t.status(response.status) }, retryAfter);
  }

  /** Of what `fetch`, or reading its body, threw. */
  static ofLostConnection(error: unknown): Problem {
    if (error instanceof Problem) return error;
    const online = typeof navigator === "undefined" || navigator.onLine;
    const body = online
      ? { type: "unreachable", title: t.unreachable, detail: t.unreachableDetail }
      : { type: "offline", title: t.offline, detail: t.offlineDetail };
    return new Problem(0, { ...body, cause: String(error) });
  }
}

/** A request. Where the service wants to know who asks, the dialog to sign in opens, and the request is sent once
    more with the key. An abort by the caller's signal is thrown as it is (`AbortError`). */
export async function api(path: string, init: RequestInit = {}): Promise<Response> {
  let response = await send(path, init);
  if (response.status === 401 && (await askToSignIn(init.signal ?? null))) response = await send(path, init);
  if (!response.ok) throw await Problem.ofResponse(response);
  return response;
}

async function send(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.value !== null) headers.set("Authorization", `Bearer ${key.value}`);
  try {
    return await fetch(path, { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw Problem.ofLostConnection(error);
  }
}

/** The JSON at a path. */
export async function get<T>(path: string, init: RequestInit = {}): Promise<T> {
  const response = await api(path, { ...init, headers: { Accept: "application/json", ...Object.fromEntries(new Headers(init.headers)) } });
  return (await response.json()) as T;
}

/** Sends JSON. */
export function sendJson(method: string, path: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  const headers = { "Content-Type": "application/json", ...Object.fromEntries(new Headers(init.headers)) };
  return api(path, { ...init, method, headers, body: JSON.stringify(body) });
}

/** The path of a document: each segment of its id is encoded, its slashes stay. Throws where it would be another path: a
    browser resolves `.` and `..` away, however they are written. */
export function documentPath(id: string): string {
  const segments = id.split("/");
  if (segments.some((segment) => segment === "." || segment === "..")) throw new Problem(400, { type: "bad-request", title: t.noDocument, detail: id });
  return `v1/documents/${segments.map(encodeURIComponent).join("/")}`;
}
