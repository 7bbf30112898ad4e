// Conversations, kept in the browser (IndexedDB). Other tabs are told of every change.
//
// Each change is a transaction on one conversation: what another tab wrote in the meantime stays. What the browser does not
// keep (a private window, no room) lives as long as the page.

import { openDB, type DBSchema, type IDBPDatabase } from "idb";
import type { Answer, Conversation, Entry, Turn } from "./types";

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation };
  /** What the list shows of each, so that it need not read them all. */
  entries: { key: string; value: Entry; indexes: { updatedMs: number } };
}

export type Change = { kind: "saved" | "deleted"; id: string } | { kind: "cleared" };

const NAME = "answerd";

export class ConversationStore {
  readonly #database: Promise<IDBPDatabase<Schema> | null>;
  /** What could not be kept. */
  readonly #memory = new Map<string, Conversation>();
  #channel: BroadcastChannel | null = null;
  #failed = false;
  /** Called with what other tabs changed. */
  onChange: ((change: Change) => void) | null = null;
  /** Called once, where the browser does not keep something. */
  onVolatile: (() => void) | null = null;

  /** Everything waits for the name of the database. */
  constructor(name: string | Promise<string> = NAME) {
    this.#database = this.#open(name);
  }

  async #open(name: string | Promise<string>): Promise<IDBPDatabase<Schema> | null> {
    try {
      this.#channel = new BroadcastChannel(await name);
      this.#channel.onmessage = ({ data }: MessageEvent<Change>) => this.onChange?.(data);
      return await openDatabase(await name);
    } catch {
      this.#fails();
      return null;
    }
  }

  #fails(): void {
    if (!this.#failed) this.onVolatile?.();
    this.#failed = true;
  }

  /** What work on the database gives; undefined where there is none, or it fails. */
  async #try<T>(work: (database: IDBPDatabase<Schema>) => Promise<T>): Promise<T | undefined> {
    const database = await this.#database;
    if (database === null) return undefined;
    try {
      return await work(database);
    } catch {
      this.#fails();
      return undefined;
    }
  }

  /** All conversations, the latest first. */
  async list(): Promise<Entry[]> {
    const kept = (await this.#try((database) => database.getAllFromIndex("entries", "updatedMs"))) ?? [];
    const entries = [...kept.filter(({ id }) => !this.#memory.has(id)), ...[...this.#memory.values()].map(entryOf)];
    return entries.sort((a, b) => b.updatedMs - a.updatedMs);
  }

  async get(id: string): Promise<Conversation | null> {
    const kept = await this.#try((database) => database.get("conversations", id));
    return structuredClone(this.#memory.get(id)) ?? kept ?? null;
  }

  async all(): Promise<Conversation[]> {
    const kept = (await this.#try((database) => database.getAll("conversations"))) ?? [];
    return [...kept.filter(({ id }) => !this.#memory.has(id)), ...[...this.#memory.values()].map((one) => structuredClone(one))];
  }

  /** Ids of the conversations with all of the words, in a title, question or answer. */
  async search(text: string): Promise<Set<string>> {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = new Set<string>();
    const look = (one: Conversation) => {
      const all = [one.title, ...one.turns.flatMap((turn) => [turn.question, turn.answer.text])].join("\n").toLowerCase();
      if (words.every((word) => all.includes(word))) found.add(one.id);
    };
    await this.#try(async (database) => {
      // One at a time: all of them may be more than a phone has room for.
      for await (const cursor of database.transaction("conversations").store) if (!this.#memory.has(cursor.value.id)) look(cursor.value);
    });
    this.#memory.forEach(look);
    return found;
  }

  /** Puts a conversation as it is. */
  async put(conversation: Conversation): Promise<void> {
    await this.#change(conversation.id, () => conversation);
  }

  /** Puts one turn; the other turns are left as they are. Begins the conversation where it is not there yet. */
  async putTurn(conversation: Omit<Conversation, "turns">, turn: Turn): Promise<void> {
    await this.#change(conversation.id, (kept) => {
      if (kept === undefined) return { ...conversation, turns: [turn] };
      const at = kept.turns.findIndex((one) => one.id === turn.id);
      const turns = at < 0 ? [...kept.turns, turn] : kept.turns.with(at, turn);
      return { ...kept, updatedMs: Math.max(kept.updatedMs, conversation.updatedMs), turns };
    });
  }

  /** Puts a turn that is being answered. Nothing where the turn was taken away in the meantime, or where another tab has
      more of the answer. */
  async updateTurn(id: string, turn: Turn): Promise<void> {
    await this.#change(id, (kept) => {
      const at = kept?.turns.findIndex((one) => one.id === turn.id) ?? -1;
      if (kept === undefined || at < 0) return undefined;
      if (!mayReplace(kept.turns[at]!.answer, turn.answer)) return undefined;
      return { ...kept, turns: kept.turns.with(at, turn) };
    });
  }

  /** Puts these turns in place of all of a conversation's. */
  async putTurns(id: string, turns: Turn[]): Promise<void> {
    await this.#change(id, (kept) => kept && { ...kept, turns });
  }

  async rename(id: string, title: string): Promise<void> {
    await this.#change(id, (kept) => kept && { ...kept, title });
  }

  async delete(id: string): Promise<void> {
    await this.#try(async (database) => {
      const transaction = database.transaction(["conversations", "entries"], "readwrite");
      await Promise.all([transaction.objectStore("conversations").delete(id), transaction.objectStore("entries").delete(id), transaction.done]);
    });
    this.#memory.delete(id);
    this.#tell({ kind: "deleted", id });
  }

  async clear(): Promise<void> {
    await this.#try(async (database) => {
      const transaction = database.transaction(["conversations", "entries"], "readwrite");
      await Promise.all([transaction.objectStore("conversations").clear(), transaction.objectStore("entries").clear(), transaction.done]);
    });
    this.#memory.clear();
    this.#tell({ kind: "cleared" });
  }

  async close(): Promise<void> {
    const database = await this.#database;
    this.#channel?.close();
    database?.close();
  }

  /** `undefined` changes nothing. */
  async #change(id: string, work: (kept: Conversation | undefined) => Conversation | undefined): Promise<void> {
    let kept: Conversation | undefined;
    const done = await this.#try(async (database) => {
      const transaction = database.transaction(["conversations", "entries"], "readwrite");
      // Where it fails, so does what was asked of it, which says so.
      transaction.done.catch(() => {});
      const conversations = transaction.objectStore("conversations");
      kept = await conversations.get(id);
      const next = work(this.#memory.get(id) ?? kept);
      if (next !== undefined) await Promise.all([conversations.put(next), transaction.objectStore("entries").put(entryOf(next))]);
      await transaction.done;
      this.#memory.delete(id);
      return { changed: next !== undefined };
    });
    if (done === undefined) {
      const next = work(this.#memory.get(id) ?? kept);
      if (next !== undefined) this.#memory.set(id, structuredClone(next));
    } else if (done.changed) {
      this.#tell({ kind: "saved", id });
    }
  }

  #tell(change: Change): void {
    this.#channel?.postMessage(change);
  }
}

/** Whether an answer may take the place of one that is kept. Tabs that read the same answer are not at the same place. */
export function mayReplace(kept: Answer, next: Answer): boolean {
  // The whole of it is not given away for a part.
  if (kept.state === "done" && next.state !== "done" && kept.id === next.id) return false;
  // A question that the service did not take from here, but from another tab, or before.
  return !(next.state === "failed" && next.id === null && kept.id !== null && kept.state !== "failed");
}

/** Not every browser only rejects: some throw. */
async function openDatabase(name: string): Promise<IDBPDatabase<Schema>> {
  return openDB<Schema>(name, 1, {
    upgrade(database) {
      database.createObjectStore("conversations", { keyPath: "id" });
      database.createObjectStore("entries", { keyPath: "id" }).createIndex("updatedMs", "updatedMs");
    },
  });
}

const entryOf = ({ id, title, updatedMs }: Conversation): Entry => ({ id, title, updatedMs });
