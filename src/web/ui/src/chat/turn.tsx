// A question and its answer, with what can be done about each.

import { useSignal } from "@preact/signals";
import type { RefObject } from "preact";
import { memo } from "preact/compat";
import { useRef } from "preact/hooks";
import { copyText } from "../shared/clipboard";
import { duration, time } from "../shared/format";
import { Bolt, Check, Copy, Edit, Retry } from "../shared/icons";
import { ProblemNote } from "../shared/problem";
import { chat, shared } from "../shared/texts";
import { AnswerText } from "./answer-text";
import { current, editAndAsk, retry, type LiveTurn } from "./conversations";
import { FeedbackButtons } from "./feedback";
import { Sources } from "./sources";
import type { Answer } from "./types";

const t = chat.turn;

/** A question of more than that is cut: its answer is what one wants to see. */
const LONG = 900;
const LONG_LINES = 12;

interface TurnProps {
  turn: LiveTurn;
  /** Called whenever more of the answer was drawn. */
  onDrawn: (() => void) | null;
  /** Marks the end of the answer. */
  end: RefObject<HTMLDivElement | null> | null;
}

export const Turn = memo(function Turn({ turn, onDrawn, end }: TurnProps) {
  const editing = useSignal(false);
  const whole = useSignal(false);
  const isLong = turn.question.length > LONG || turn.question.split("\n").length > LONG_LINES;
  const answer = turn.answer.value;
  const running = answer.state === "running";
  return (
    <article class="turn" data-state={answer.state}>
      {editing.value ? (
        <EditForm turn={turn} onClose={() => (editing.value = false)} />
      ) : (
        <div class={`asked ${isLong && !whole.value ? "long" : ""}`}>
          <h2>{turn.question}</h2>
          <div class="actions">
            <CopyButton label={t.copyQuestion} text={() => turn.question} />
            <button type="button" class="icon-button" aria-label={t.edit} title={t.edit} disabled={current.value !== null} onClick={() => (editing.value = true)}>
              <Edit size={16} />
            </button>
          </div>
          {isLong && (
            <div class="all">
              <button type="button" class="button quiet" aria-expanded={whole.value} onClick={() => (whole.value = !whole.value)}>
                {whole.value ? t.less : t.all}
              </button>
            </div>
          )}
          {turn.collections.length > 0 && <p class="in muted small">{t.in(turn.collections)}</p>}
        </div>
      )}
      <AnswerText turn={turn} onDrawn={onDrawn} />
      {answer.trouble && (
        <div data-kind={answer.trouble.type}>
          <ProblemNote problem={answer.trouble} onRetry={() => retry(turn)} />
        </div>
      )}
      <div class="answer-foot">
        <p class="status" role="status">
          {running && (
            <>
              <span class="pulse" />
              {statusText(answer)}
            </>
          )}
        </p>
        {!running && (
          <>
            <div class="actions">
              {answer.text !== "" && <CopyButton label={t.copyAnswer} text={() => answer.text} />}
              {answer.state === "done" && (
                <button type="button" class="icon-button" aria-label={t.retry} title={t.retry} disabled={current.value !== null} onClick={() => retry(turn)}>
                  <Retry size={16} />
                </button>
              )}
              {answer.state === "done" && answer.id !== null && answer.text !== "" && <FeedbackButtons turn={turn} />}
            </div>
            <Facts answer={answer} />
          </>
        )}
      </div>
      <div ref={end} class="answer-end" />
      <Sources sources={answer.sources} question={turn.question} />
    </article>
  );
});

function statusText({ connected, stage, queuePosition, sources, text }: Answer): string {
  const s = chat.status;
  if (!connected) return s.reconnecting;
  // An answer from the cache comes without stages.
  if (text !== "") return s.writing;
  switch (stage) {
    case "queued":
      if (queuePosition === null) return s.waiting;
      return queuePosition > 1 ? s.ahead(queuePosition - 1) : s.next;
    case "reading":
      return s.reading(sources.length);
    case "generating":
      return s.writing;
    default:
      return s.searching;
  }
}

/** What the answer took, and how fresh what it rests on is. */
function Facts({ answer }: { answer: Answer }) {
  const a = chat.answer;
  const { usage, done, startedMs, firstTokenMs, endedMs } = answer;
  const ends: Record<string, string> = { length: a.cut, cancelled: a.stopped, not_found: a.notFound };
  const end = ends[done?.finish_reason ?? ""];
  const facts: string[] = [];
  if (usage !== null && usage.total_tokens > 0) {
    facts.push(a.tokens(usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens) + (usage.estimated ? ` (${a.estimated})` : ""));
  }
  if (done !== null && endedMs !== null) {
    facts.push(a.took(duration(endedMs - startedMs), firstTokenMs === null ? null : duration(firstTokenMs - startedMs)));
  }
  if (done !== null && done.lag_ms !== undefined) {
    const lag = done.lag_ms !== null && done.lag_ms > 0 ? a.lag(duration(done.lag_ms), done.lag_events ?? null) : a.current;
    facts.push(a.asOf(time(startedMs), lag));
  }
  if (end === undefined && facts.length === 0 && !done?.cached) return null;
  return (
    <div class="facts" role="group" aria-label={a.facts}>
      {end !== undefined && <span class={`badge ${done?.finish_reason === "cancelled" ? "" : "warn"}`}>{end}</span>}
      {done?.cached && (
        <span class="badge accent" title={a.cachedTitle}>
          <Bolt size={12} />
          {a.cached}
        </span>
      )}
      {facts.map((fact) => (
        <span key={fact}>{fact}</span>
      ))}
    </div>
  );
}

function CopyButton({ label, text }: { label: string; text: () => string }) {
  const done = useSignal(false);
  const copy = async () => {
    if (!(await copyText(text()))) return;
    done.value = true;
    setTimeout(() => (done.value = false), 1500);
  };
  return (
    <button type="button" class="icon-button" aria-label={done.value ? shared.copied : label} title={label} onClick={() => void copy()}>
      {done.value ? <Check size={16} /> : <Copy size={16} />}
    </button>
  );
}

function EditForm({ turn, onClose }: { turn: LiveTurn; onClose: () => void }) {
  const box = useRef<HTMLTextAreaElement>(null);
  const send = () => {
    const text = box.current?.value.trim() ?? "";
    if (text !== "") editAndAsk(turn, text);
  };
  return (
    <form
      class="edit"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={box}
        class="input"
        aria-label={t.editing}
        rows={Math.min(10, turn.question.split("\n").length + 1)}
        defaultValue={turn.question}
        autofocus
        onKeyDown={(event) => {
          if (event.key === "Escape") onClose();
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          send();
        }}
      />
      <div class="actions">
        <button type="button" class="button" onClick={onClose}>
          {t.cancel}
        </button>
        <button type="submit" class="button primary">
          {t.ask}
        </button>
      </div>
    </form>
  );
}
