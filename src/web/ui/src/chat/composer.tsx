// The question box: what is asked, of which collections, and the way to stop an answer.

import { signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { number } from "../shared/format";
import { health } from "../shared/health";
import { ChevronDown, Filter, Offline, Send, Stop } from "../shared/icons";
import { Popover } from "../shared/menu";
import { key, may } from "../shared/session";
import { chat } from "../shared/texts";
import { ask, chooseCollections, collections, current, openId, stop } from "./conversations";
import { collectionsKnown, readDocuments } from "./documents";

const t = chat.composer;

const online = signal(navigator.onLine);
for (const kind of ["online", "offline"]) addEventListener(kind, () => (online.value = navigator.onLine));

/** Puts the focus on the question box; not on a touch screen, whose keyboard would cover the answer. */
function focus(box: HTMLTextAreaElement | null): void {
  if (matchMedia("(pointer: fine)").matches) box?.focus({ preventScroll: true });
}

export function Composer() {
  const box = useRef<HTMLTextAreaElement>(null);
  const text = useSignal("");
  const running = current.value !== null;

  // As high as its text, up to a limit that the style sheet sets.
  useLayoutEffect(() => {
    const area = box.current!;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }, [text.value]);
  useEffect(() => focus(box.current), [openId.value]);
  // Who is somebody else now sees other collections.
  useEffect(() => void readDocuments(), [key.value]);

  const submit = () => {
    if (running || text.value.trim() === "" || !may("ask")) return;
    ask(text.value);
    text.value = "";
    focus(box.current);
  };
  return (
    <footer class="composer">
      <div class="column">
        <Connection />
        <form
          id="form"
          onSubmit={(event) => {
            event.preventDefault();
            if (running) stop();
            else submit();
          }}
        >
          <label for="question" class="unseen">
            {t.label}
          </label>
          <textarea
            ref={box}
            id="question"
            rows={1}
            placeholder={t.placeholder}
            autocomplete="off"
            enterkeyhint="send"
            aria-describedby="keys"
            value={text}
            onInput={(event) => (text.value = event.currentTarget.value)}
            onKeyDown={(event) => {
              // While an input method composes a character, Enter is its own.
              if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
              event.preventDefault();
              submit();
            }}
          />
          <div class="composer-foot">
            <CollectionChoice />
            <span class="space" />
            <button type="submit" id="send" class={`button primary ${running ? "stop" : ""}`} aria-label={running ? t.stop : t.send} title={running ? t.stop : t.send} disabled={!running && (text.value.trim() === "" || !may("ask"))}>
              {running ? <Stop /> : <Send />}
            </button>
          </div>
        </form>
        <p id="keys" class="muted keys">
          {may("ask") ? t.keys : t.noAccess}
        </p>
      </div>
    </footer>
  );
}

function Connection() {
  const words = !online.value ? t.offline : health.value.state === "unreachable" ? t.unreachable : "";
  return (
    <div id="offline" role="status">
      {words !== "" && (
        <p class="note warn">
          <Offline size={16} />
          {words}
        </p>
      )}
    </div>
  );
}

function CollectionChoice() {
  const all = collectionsKnown.value;
  const chosen = collections.value.filter((name) => all.length === 0 || all.some((one) => one.name === name));
  // Of one there is nothing to choose.
  if (all.length < 2 && chosen.length === 0) return null;
  const toggle = (name: string) => chooseCollections(chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name]);
  const label = t.collections(chosen);
  return (
    <Popover
      kind="panel"
      label={`${t.choose}: ${label}`}
      class={`button quiet collections ${chosen.length > 0 ? "chosen" : ""}`}
      onOpen={() => void readDocuments()}
      face={
        <>
          <Filter size={15} />
          <span class="truncate">{label}</span>
          <ChevronDown size={14} />
        </>
      }
    >
      <fieldset class="collection-list">
        <legend class="label">{t.choose}</legend>
        <label class="check">
          <input type="checkbox" checked={chosen.length === 0} onChange={() => chooseCollections([])} />
          <span>{t.all}</span>
        </label>
        {all.map(({ name, documents }) => (
          <label class="check" key={name}>
            <input type="checkbox" checked={chosen.includes(name)} onChange={() => toggle(name)} />
            <span class="truncate">{name}</span>
            <span class="muted small">{number(documents)}</span>
          </label>
        ))}
      </fieldset>
    </Popover>
  );
}
