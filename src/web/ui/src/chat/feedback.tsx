// Thumbs up and down for an answer, with a note. Kept by the service; pressed again, it is taken back.

import { useSignal } from "@preact/signals";
import { api, Problem, sendJson } from "../shared/api";
import { Dialog } from "../shared/dialog";
import { ThumbDown, ThumbUp } from "../shared/icons";
import { chat, shared } from "../shared/texts";
import { toast } from "../shared/toast";
import { keepFeedback, openId, type LiveTurn } from "./conversations";
import type { Feedback } from "./types";

const t = chat.feedback;

/** What the service takes of the question with it, in characters of which each may be four bytes. */
const QUESTION = 4_000;

/** Tells the service; false where it did not take it. */
async function tell(turn: LiveTurn, feedback: Feedback | null): Promise<boolean> {
  const { id, feedback: earlier } = turn.answer.peek();
  const path = `v1/answers/${id}/feedback`;
  // Another one may be open once the service has answered.
  const conversationId = openId.peek();
  keepFeedback(conversationId, turn, feedback);
  try {
    if (feedback === null) await api(path, { method: "DELETE" });
    else await sendJson("POST", path, { ...feedback, question: turn.question.slice(0, QUESTION) });
    return true;
  } catch (error) {
    keepFeedback(conversationId, turn, earlier);
    if (!(error instanceof Problem)) throw error;
    toast(error.status === 404 ? t.gone : t.failed(error.title));
    return false;
  }
}

export function FeedbackButtons({ turn }: { turn: LiveTurn }) {
  const asking = useSignal(false);
  const given = turn.answer.value.feedback;
  const rate = async (rating: "up" | "down") => {
    if (given?.rating === rating) {
      await tell(turn, null);
    } else if (await tell(turn, { rating, note: "" })) {
      asking.value = true;
    }
  };
  return (
    <>
      <button type="button" class="icon-button" aria-label={t.up} title={t.up} aria-pressed={given?.rating === "up"} onClick={() => void rate("up")}>
        <ThumbUp size={16} />
      </button>
      <button type="button" class="icon-button" aria-label={t.down} title={t.down} aria-pressed={given?.rating === "down"} onClick={() => void rate("down")}>
        <ThumbDown size={16} />
      </button>
      {asking.value && given !== null && <NoteDialog turn={turn} feedback={given} onClose={() => (asking.value = false)} />}
    </>
  );
}

function NoteDialog({ turn, feedback, onClose }: { turn: LiveTurn; feedback: Feedback; onClose: () => void }) {
  const send = async (event: SubmitEvent) => {
    event.preventDefault();
    const note = String(new FormData(event.currentTarget as HTMLFormElement).get("note")).trim();
    onClose();
    if (note !== "" && (await tell(turn, { rating: feedback.rating, note }))) toast(t.thanks);
  };
  return (
    <Dialog title={feedback.rating === "up" ? t.note : t.noteDown} onClose={onClose}>
      <form class="rename" onSubmit={(event) => void send(event)}>
        <textarea class="input" name="note" rows={4} maxlength={2000} aria-label={feedback.rating === "up" ? t.note : t.noteDown} aria-describedby="note-optional" autofocus />
        <p id="note-optional" class="muted small">
          {t.optional}
        </p>
        <div class="actions">
          <button type="button" class="button" onClick={onClose}>
            {shared.cancel}
          </button>
          <button type="submit" class="button primary">
            {t.send}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
