// The text of an answer, drawn by `MarkdownView` past the view library: a component would draw all of it with each token.

import { effect } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { copyText } from "../shared/clipboard";
import { openPassage } from "../shared/passage";
import { chat as t, shared } from "../shared/texts";
import type { LiveTurn } from "./conversations";
import { MarkdownView } from "./markdown/view";
import type { Source } from "./types";

const NONE: ReadonlyMap<number, string> = new Map();

export function AnswerText({ turn, onDrawn }: { turn: LiveTurn; onDrawn: (() => void) | null }) {
  const box = useRef<HTMLDivElement>(null);
  const drawn = useRef(onDrawn);
  drawn.current = onDrawn;

  useLayoutEffect(() => {
    const target = box.current!;
    const view = new MarkdownView(target);
    view.onDrawn = () => drawn.current?.();
    let sources: Source[] | null = null;
    let titles = NONE;
    const end = effect(() => {
      const answer = turn.answer.value;
      if (answer.sources !== sources) {
        sources = answer.sources;
        titles = sources.length === 0 ? NONE : new Map(sources.map((source) => [source.n, source.title]));
      }
      const running = answer.state === "running";
      view.update(answer.text, !running, titles);
      target.classList.toggle("streaming", running && answer.text !== "");
      // Busy while it is written, so that a screen reader says finished sentences and not each syllable.
      target.setAttribute("aria-busy", String(running));
    });
    return () => {
      end();
      view.close();
    };
  }, [turn]);

  const press = (event: MouseEvent) => {
    const target = event.target as Element;
    const chip = target.closest<HTMLElement>(".cite");
    if (chip !== null) {
      const source = turn.answer.peek().sources.find((one) => one.n === Number(chip.dataset["n"]));
      if (source !== undefined) openPassage(source, turn.question);
      return;
    }
    const copy = target.closest<HTMLElement>(".code-copy");
    const code = copy?.closest(".code")?.querySelector("pre")?.textContent;
    if (copy && code !== undefined) {
      void copyText(code ?? "").then((done) => {
        if (!done) return;
        copy.textContent = shared.copied;
        setTimeout(() => (copy.textContent = shared.copy), 1500);
      });
    }
  };
  return <div ref={box} class="answer" role="region" aria-label={t.answer.label} aria-live="polite" onClick={press} />;
}
