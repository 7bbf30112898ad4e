// The passages that an answer rests on, as cards. A card opens its passage in its document.

import { memo } from "preact/compat";
import { External } from "../shared/icons";
import { openPassage, placeOf, webAddress } from "../shared/passage";
import { chat } from "../shared/texts";
import { hostOf } from "./markdown/render";
import type { Source } from "./types";

const t = chat.sources;

export const Sources = memo(function Sources({ sources, question }: { sources: Source[]; question: string }) {
  if (sources.length === 0) return null;
  return (
    <section class="sources">
      <h3>{t.title(sources.length)}</h3>
      <ol>
        {sources.map((source) => (
          <Card key={source.n} source={source} question={question} />
        ))}
      </ol>
    </section>
  );
});

function Card({ source, question }: { source: Source; question: string }) {
  const place = placeOf(source);
  const original = webAddress(source.url);
  return (
    <li class="source" data-n={source.n}>
      <button type="button" class="open" aria-haspopup="dialog" onClick={() => openPassage(source, question)}>
        <span class="number">
          <span class="unseen">{t.source} </span>
          {source.n}
        </span>
        <span class="truncate">{source.title}</span>
      </button>
      {place !== "" && <p class="place truncate" title={place}>{place}</p>}
      <p class="snippet">{source.snippet}</p>
      {original !== null && (
        <a class="original" href={original} target="_blank" rel="noopener noreferrer nofollow">
          {t.original(hostOf(original))}
          <External size={12} />
        </a>
      )}
    </li>
  );
}
