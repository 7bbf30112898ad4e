// A conversation that has not begun: what this is, what there is to ask about, and a few first questions.

import { useEffect } from "preact/hooks";
import { may } from "../shared/session";
import logo from "../shared/icon.svg";
import { chat } from "../shared/texts";
import { ask } from "./conversations";
import { collectionsKnown, known, readDocuments, unknown } from "./documents";

const t = chat.empty;
/** While no documents are known, they are looked for again, unless nobody looks at the page. */
const AGAIN_MS = 5_000;

export function Empty() {
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let open = true;
    const look = async () => {
      clearTimeout(timer);
      if (document.hidden) return;
      await readDocuments();
      clearTimeout(timer);
      // Who did not sign in is not asked again and again.
      const wanting = unknown.value === null ? !known.value?.count : unknown.value.mayPass;
      if (open && wanting) timer = setTimeout(look, AGAIN_MS);
    };
    const onVisibility = () => void look();
    document.addEventListener("visibilitychange", onVisibility);
    void look();
    return () => {
      open = false;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisibility);
    };
  }, []);
  return (
    <div class="scroller-frame">
      <section class="empty column" aria-labelledby="empty-title">
        <img src={logo} alt="" width={48} height={48} />
        <h1 id="empty-title">{t.title}</h1>
        <p>{t.text}</p>
        <Count />
        {known.value?.examples && (
          <div id="examples">
            <h2 class="unseen">{t.examples}</h2>
            <ul>
              {chat.examples.map(({ question }) => (
                <li key={question}>
                  <button type="button" class="button" onClick={() => ask(question)}>
                    {question}
                  </button>
                </li>
              ))}
            </ul>
          </div>
        )}
      </section>
    </div>
  );
}

function Count() {
  const there = known.value;
  if (unknown.value !== null) return <p id="count" class="small bad-text" role="status">{t.unknown(unknown.value.title)}</p>;
  if (there === null) return <p id="count" class="muted small" role="status">{t.counting}</p>;
  if (there.count === 0) {
    return (
      <p id="count" class="muted small" role="status">
        {t.none} {may("write") && <a href="documents">{t.upload}</a>}
      </p>
    );
  }
  const count = collectionsKnown.value.length;
  return (
    <p id="count" class="muted small" role="status">
      {t.documents(there.count, there.more)} {count > 1 && t.collections(count)}
    </p>
  );
}
