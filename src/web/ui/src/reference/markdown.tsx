// Markdown as the answers show it: sanitized, with colours for code and a button to copy it.

import { useLayoutEffect, useRef } from "preact/hooks";
import { MarkdownView } from "../chat/markdown/view";
import { copyText } from "../shared/clipboard";
import { shared } from "../shared/texts";
import "../chat/answer.css";

const NONE: ReadonlyMap<number, string> = new Map();

export function Markdown({ text }: { text: string }) {
  const box = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const view = new MarkdownView(box.current!);
    view.update(text, true, NONE);
    return () => view.close();
  }, [text]);
  const copy = (event: MouseEvent) => {
    const button = (event.target as Element).closest<HTMLElement>(".code-copy");
    const code = button?.closest(".code")?.querySelector("pre")?.textContent;
    if (!button || code === undefined) return;
    void copyText((code ?? "").trimEnd()).then((done) => {
      if (!done) return;
      button.textContent = shared.copied;
      setTimeout(() => (button.textContent = shared.copy), 1500);
    });
  };
  return <div ref={box} class="answer" onClick={copy} />;
}

/** Code by itself. */
export function Code({ text, language }: { text: string; language: string }) {
  // A fence that is longer than any in the text.
  return <Markdown text={`~~~~~~${language}\n${text}\n~~~~~~`} />;
}

/** An example, as it is sent. */
export function Example({ value }: { value: unknown }) {
  const json = typeof value !== "string";
  return <Code text={json ? JSON.stringify(value, null, 2) : value} language={json ? "json" : ""} />;
}
