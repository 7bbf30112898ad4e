// The open conversation, and where it is scrolled to: a new question goes to the top of the window, and its answer grows
// below it without moving what is being read. Who scrolls to its end is kept there.

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
    following.current = false;
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
  }, [last]);

  /** How much of the answer is below what can be seen. */
  const hiddenBelow = () => (end.current === null || scroller.current === null ? 0 : end.current.getBoundingClientRect().bottom - scroller.current.getBoundingClientRect().bottom + 8);
  /** Keeps the end of a growing answer in sight. */
  const follow = () => {
    const hidden = hiddenBelow();
    if (following.current && hidden > 0) scroller.current!.scrollTop += hidden;
  };
  /** Ends the following at once; it goes on where the end is in sight after the browser has scrolled. */
  const byHand = () => {
    following.current = false;
    const before = scroller.current?.scrollTop ?? 0;
    setTimeout(() => {
      const down = (scroller.current?.scrollTop ?? 0) > before;
      following.current = down && Math.abs(hiddenBelow()) < 48;
    }, 100);
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
