// The state of the chat page: the list of conversations, the one that is open, and the answers that are being read,
// here and in the background. The components show it and call these functions; the rules are here.

import { computed, signal, type Signal } from "@preact/signals";
import { local } from "../shared/kept";
import { whose } from "../shared/session";
import { toast } from "../shared/toast";
import { chat as t, shared } from "../shared/texts";
import { asked, messagesOf, stopped } from "./answer";
import { Asking } from "./asking";
import { ConversationStore } from "./store";
import { newId, type Answer, type Conversation, type Entry, type Feedback, type Turn } from "./types";

/** A turn on the page: its answer changes while it is written. */
export interface LiveTurn {
  readonly id: string;
  readonly question: string;
  readonly collections: string[];
  readonly answer: Signal<Answer>;
}

/** How often an answer that is being written is kept. */
const KEEP_EVERY_MS = 1_000;
const TITLE_LENGTH = 80;
const CHOSEN = "answerd.collections";

/** Each person has their own, also where they share a browser. */
const store = new ConversationStore(whose.then((name) => (name === "" ? "answerd" : `answerd:${name}`)));

/** The conversations, the latest first; null until they are read. */
export const entries = signal<Entry[] | null>(null);
/** The open conversation; null: a new one, which is kept once something is asked. */
export const openId = signal<string | null>(null);
export const turns = signal<LiveTurn[]>([]);
/** Whether the open conversation is still being read from the store. */
export const opening = signal(false);
/** The collections to ask, empty: all. */
export const collections = signal<string[]>(readCollections());
/** Ids of conversations with an answer that is being written. */
export const busy = signal<ReadonlySet<string>>(new Set());
/** The turn of the open conversation that is being answered. */
export const current = computed(() => turns.value.findLast((turn) => turn.answer.value.state === "running") ?? null);
export const openTitle = computed(() => entries.value?.find((entry) => entry.id === openId.value)?.title ?? null);

interface Running {
  asking: Asking;
  conversationId: string;
}
/** By the turn's id. */
const running = new Map<string, Running>();

const frozen = (turn: LiveTurn): Turn => ({ id: turn.id, question: turn.question, collections: turn.collections, answer: turn.answer.value });
const live = (turn: Turn): LiveTurn => ({ ...turn, answer: signal(turn.answer) });

function showBusy(): void {
  busy.value = new Set([...running.values()].map((one) => one.conversationId));
}

async function readEntries(): Promise<void> {
  entries.value = await store.list();
}

function readCollections(): string[] {
  try {
    const kept: unknown = JSON.parse(local.get(CHOSEN) ?? "[]");
    return Array.isArray(kept) ? kept.filter((one) => typeof one === "string") : [];
  } catch {
    return [];
  }
}

export function chooseCollections(names: string[]): void {
  collections.value = names;
  local.set(CHOSEN, JSON.stringify(names));
}

// ---------------------------------------------------------------- opening

const idInAddress = (): string | null => /^#c=([\w-]+)$/.exec(location.hash)?.[1] ?? null;

/** Reads the list, opens the conversation that the address names, and follows both from then on. */
export async function start(): Promise<void> {
  store.onVolatile = () => toast(t.notKept);
  store.onChange = (change) => {
    void readEntries();
    if (change.kind === "saved" && change.id === openId.value) void refresh(change.id, true);
    if (change.kind === "cleared" || (change.kind === "deleted" && change.id === openId.value)) begin();
  };
  addEventListener("hashchange", () => {
    if (idInAddress() !== openId.value) void open(idInAddress());
  });
  await Promise.all([open(idInAddress()), readEntries()]);
}

/** Opens a conversation; null begins a new one. Answers of the one before go on in the background. */
export async function open(id: string | null): Promise<void> {
  openId.value = id;
  turns.value = [];
  if (id === null) {
    if (location.hash !== "") history.pushState(null, "", location.pathname + location.search);
    return;
  }
  if (idInAddress() !== id) history.pushState(null, "", `#c=${id}`);
  opening.value = true;
  await refresh(id);
  opening.value = false;
}

export const begin = (): void => void open(null);

/** Brings the open conversation to what is kept of it. What is being read here is left as it is, unless `told`, another tab
    changed something, and has the whole of it. */
async function refresh(id: string, told = false): Promise<void> {
  const kept = await store.get(id);
  if (openId.value !== id) return;
  if (kept === null) {
    begin();
    return;
  }
  const known = new Map([...turns.value, ...background.values()].map((turn) => [turn.id, turn]));
  const next = kept.turns.map((turn) => {
    const here = known.get(turn.id);
    if (here === undefined) return live(turn);
    const { id: answerId, state } = turn.answer;
    if (state === "done" && answerId !== null && answerId === here.answer.value.id) leave(turn.id);
    if (!running.has(turn.id)) here.answer.value = turn.answer;
    return here;
  });
  const same = next.length === turns.value.length && next.every((turn, at) => turn === turns.value[at]);
  if (!same) turns.value = next;
  // Written by another tab, or cut off by a reload: it is read on from where it is. What another tab has only just asked has
  // no name yet by which it could be read; that tab tells of it again.
  for (const turn of next) {
    const { state, id: answerId } = turn.answer.value;
    if (state !== "running" || running.has(turn.id) || (told && answerId === null)) continue;
    void run(id, turn, (asking) => asking.resume());
  }
}

/** Turns that are answered while another conversation is open. */
const background = new Map<string, LiveTurn>();

// ---------------------------------------------------------------- asking

/** Asks a question, at the end of the open conversation. */
export function ask(question: string): void {
  const text = question.trim();
  if (text === "" || current.value !== null) return;
  const nowMs = Date.now();
  const turn: LiveTurn = { id: newId(), question: text, collections: collections.value, answer: signal(asked(nowMs)) };
  const before = turns.value;
  const id = openId.value ?? newId();
  turns.value = [...before, turn];
  if (openId.value === null) {
    openId.value = id;
    history.pushState(null, "", `#c=${id}`);
  }
  const title = text.replace(/\s+/g, " ").slice(0, TITLE_LENGTH);
  void store.putTurn({ id, title, createdMs: nowMs, updatedMs: nowMs }, frozen(turn)).then(readEntries);
  void run(id, turn, (asking) => asking.ask({ question: text, messages: messagesOf(before.map(frozen)), collections: turn.collections, anew: false }));
}

/** Asks a turn's question once more, not from the cache. */
export function retry(turn: LiveTurn): void {
  const id = openId.value;
  const at = turns.value.indexOf(turn);
  if (id === null || at < 0 || current.value !== null) return;
  const earlier = turn.answer.value;
  turn.answer.value = asked(Date.now());
  const before = turns.value.slice(0, at).map(frozen);
  void run(id, turn, (asking) => asking.ask({ question: turn.question, messages: messagesOf(before), collections: turn.collections, anew: earlier.state === "done" }), earlier);
  if (earlier.state === "done" && earlier.text !== "") {
    toast(t.askedAnew, {
      label: t.undo,
      run: () => {
        abandon(turn.id);
        turn.answer.value = earlier;
        void store.updateTurn(id, frozen(turn));
      },
    });
  }
}

/** Asks another question in a turn's place. What came after the turn goes, and can be had back for a moment. */
export function editAndAsk(turn: LiveTurn, question: string): void {
  const id = openId.value;
  const at = turns.value.indexOf(turn);
  if (id === null || at < 0 || question.trim() === "" || current.value !== null) return;
  const all = turns.value;
  turns.value = all.slice(0, at);
  void store.putTurns(id, turns.value.map(frozen));
  ask(question);
  toast(t.edited(all.length - at), {
    label: t.undo,
    run: () => {
      // Another conversation may be open by now.
      abandonAllOf(id);
      void store.putTurns(id, all.map(frozen));
      if (openId.value === id) turns.value = all;
    },
  });
}

/** Ends the answer that is being written in the open conversation. */
export function stop(): void {
  const turn = current.value;
  if (turn === null) return;
  const here = running.get(turn.id);
  if (here !== undefined) return here.asking.stop();
  // Asked in another tab, which is gone or has not told yet how to read it.
  turn.answer.value = stopped(turn.answer.value, Date.now());
  if (openId.value !== null) void store.updateTurn(openId.value, frozen(turn));
}

/** Ends an answer whose turn is no longer of interest. */
function abandon(turnId: string): void {
  running.get(turnId)?.asking.stop();
  running.delete(turnId);
  background.delete(turnId);
  showBusy();
}

function abandonAllOf(conversationId: string): void {
  for (const [turnId, one] of [...running]) if (one.conversationId === conversationId) abandon(turnId);
}

/** Reads an answer no further that goes on elsewhere. */
function leave(turnId: string): void {
  running.get(turnId)?.asking.leave();
  running.delete(turnId);
  background.delete(turnId);
  showBusy();
}

/** `earlier`: the answer that this one is to take the place of. */
async function run(conversationId: string, turn: LiveTurn, work: (asking: Asking) => Promise<void>, earlier: Answer | null = null): Promise<void> {
  let keptMs = 0;
  const keep = async () => {
    keptMs = Date.now();
    await store.updateTurn(conversationId, frozen(turn));
  };
  const asking = new Asking(turn.answer.value, (answer) => {
    if (running.get(turn.id)?.asking !== asking) return;
    // The service's id of the answer is what a reload needs: it is kept at once.
    const isNew = turn.answer.value.id !== answer.id;
    turn.answer.value = answer;
    if (isNew || Date.now() - keptMs > KEEP_EVERY_MS) void keep();
  });
  running.set(turn.id, { asking, conversationId });
  background.set(turn.id, turn);
  showBusy();
  await work(asking);
  if (running.get(turn.id)?.asking === asking) {
    running.delete(turn.id);
    background.delete(turn.id);
    showBusy();
    const { state, id, trouble } = turn.answer.value;
    if (earlier?.state === "done" && state === "failed" && id === null) {
      // The service did not take the question: the answer that was there is better than none.
      turn.answer.value = earlier;
      toast(trouble?.title || shared.problem.unknown);
    }
    await keep();
    // Another tab may have read more of it.
    if (conversationId === openId.value && (turn.answer.value.state === "failed" || !turns.value.includes(turn))) await refresh(conversationId);
  }
}

/** Keeps what was said of an answer, in the conversation that it is part of. */
export function keepFeedback(conversationId: string | null, turn: LiveTurn, feedback: Feedback | null): void {
  turn.answer.value = { ...turn.answer.value, feedback };
  if (conversationId !== null) void store.updateTurn(conversationId, frozen(turn));
}

// ---------------------------------------------------------------- the list

export async function rename(id: string, title: string): Promise<void> {
  const text = title.trim();
  if (text === "") return;
  await store.rename(id, text);
  await readEntries();
}

/** Deletes a conversation; it can be had back for a moment. */
export async function remove(id: string): Promise<void> {
  const kept = await store.get(id);
  abandonAllOf(id);
  await store.delete(id);
  await readEntries();
  if (openId.value === id) begin();
  if (kept === null) return;
  toast(t.deleted(kept.title), {
    label: t.undo,
    run: () => void store.put(endedOf(kept)).then(readEntries).then(() => open(id)),
  });
}

export async function removeAll(): Promise<void> {
  for (const turnId of [...running.keys()]) abandon(turnId);
  await store.clear();
  await readEntries();
  begin();
}

/** A conversation whose unfinished answers have ended. */
const endedOf = (conversation: Conversation): Conversation => ({
  ...conversation,
  turns: conversation.turns.map((turn) => (turn.answer.state === "running" ? { ...turn, answer: { ...turn.answer, state: "done" as const, done: { finish_reason: "cancelled" as const, cached: false } } } : turn)),
});

export const search = (text: string): Promise<Set<string>> => store.search(text);
export const conversationOf = (id: string): Promise<Conversation | null> => store.get(id);
export const allConversations = (): Promise<Conversation[]> => store.all();
