// The open conversation, and where it is scrolled to: a new question goes to the top of the window, its answer is followed
// until the reader scrolls by hand.

import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { ArrowDown } from "../shared/icons";
import { chat as t, shared } from "../shared/texts";
import { opening, turns } from "./conversations";
import { Empty } from "./empty";
import { Turn } from "./turn";

/** Turns on the page; those before are shown when they are asked for. A long conversation would make the page slow. */
const SHOWN = 20;

const calm = (): ScrollBehavior => (matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth");

export function Conversation() {
  const scroller = useRef<HTMLDivElement>(null);
  const end = useRef<HTMLDivElement>(null);
  const following = useRef(false);
  const shown = useSignal(SHOWN);
  const endInSight = useSignal(true);
  const all = turns.value;
  const last = all.at(-1);
  const known = useRef(new Set<string>());

  useLayoutEffect(() => {
    const box = scroller.current;
    if (box === null || last === undefined) return;
    const isNew = known.current.size > 0 || last.answer.peek().state === "running";
    if (known.current.has(last.id)) return;
    for (const turn of all) known.current.add(turn.id);
    following.current = last.answer.peek().state === "running";
    const question = box.querySelector<HTMLElement>(".turn:last-of-type");
    if (question === null) return;
    const top = isNew ? question.offsetTop - 8 : box.scrollHeight;
    box.scrollTo({ top, behavior: isNew && known.current.size > 1 ? calm() : "instant" });
  }, [last]);

  useEffect(() => {
    if (scroller.current === null || end.current === null) return;
    const observer = new IntersectionObserver(([entry]) => (endInSight.value = entry!.isIntersecting || entry!.boundingClientRect.top < (entry!.rootBounds?.top ?? 0)), { root: scroller.current, rootMargin: "0px 0px 80px 0px" });
    observer.observe(end.current);
    return () => observer.disconnect();
  }, [last === undefined]);

  /** Keeps the end of a growing answer in sight. */
  const follow = () => {
    const [box, mark] = [scroller.current, end.current];
    if (!following.current || box === null || mark === null) return;
    const hidden = mark.getBoundingClientRect().bottom - box.getBoundingClientRect().bottom + 8;
    if (hidden > 0) box.scrollTop += hidden;
  };
  const byHand = () => {
    following.current = false;
  };
  const toEnd = () => {
    following.current = last?.answer.peek().state === "running";
    end.current?.scrollIntoView({ block: "end", behavior: calm() });
  };

  if (opening.value && all.length === 0) return <Loading />;
  if (all.length === 0) return <Empty />;
  const hidden = Math.max(0, all.length - shown.value);
  return (
    <div class="scroller-frame">
      <div
        ref={scroller}
        class="scroller"
        onWheel={byHand}
        onTouchMove={byHand}
        onKeyDown={(event) => {
          if (/^(?:Page|Arrow|Home|End)/.test(event.key)) byHand();
        }}
      >
        <section id="turns" class="column" aria-label={t.conversation.label}>
          {hidden > 0 && (
            <button type="button" class="button quiet earlier" onClick={() => (shown.value += SHOWN)}>
              {t.conversation.earlier(hidden)}
            </button>
          )}
          {all.slice(hidden).map((turn) => (
            <Turn key={turn.id} turn={turn} onDrawn={turn === last ? follow : null} end={turn === last ? end : null} />
          ))}
        </section>
      </div>
      {!endInSight.value && (
        <button type="button" class="icon-button to-end" aria-label={t.composer.toEnd} title={t.composer.toEnd} onClick={toEnd}>
          <ArrowDown />
        </button>
      )}
    </div>
  );
}

function Loading() {
  return (
    <div class="scroller-frame">
      <div class="column conversation-loading" role="status" aria-label={shared.loading}>
        <div class="skeleton bubble" />
        {[92, 97, 88, 45].map((width, at) => (
          <div key={at} class="skeleton" style={{ width: `${width}%` }} />
        ))}
      </div>
    </div>
  );
}
