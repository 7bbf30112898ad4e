// Where documents come from and where things are kept, each with whether it works.

import { bytes } from "../shared/format";
import { admin } from "../shared/texts-admin";
import { part } from "./live";
import { JsonFacts, Waiting } from "./parts";
import { member, numberOf, textOf, type Json, type Status } from "./status";
import { byPath } from "./tree";

const t = admin.links;

interface Link {
  id: string;
  title: string;
  about: string;
  /** `null`: not configured. */
  works: boolean | null;
  trouble: string | null;
  facts: Json;
}

/** Told in the head of a card already. */
const HEADS = ["connected", "works", "reason", "trouble", "engine", "path"];

const links = part(linksOf);

function linksOf(status: Status): Link[] {
  const { events, redis, store } = status;
  const engine = textOf(member(store, "engine")) ?? "";
  const trouble = textOf(member(store, "trouble"));
  const heldUp = textOf(member(events, "held_up"));
  const folders = [...byPath(status.actors).values()].filter((node) => node.state !== undefined && textOf(member(node.detail, "path")) !== null);
  return [
    {
      id: "nats", title: t.nats, about: events === null ? t.offText.nats : t.natsText,
      works: events === null ? null : member(events, "connected") === true && heldUp === null,
      trouble: textOf(member(events, "trouble")) ?? heldUp, facts: withSizes(events),
    },
    {
      id: "redis", title: t.redis, about: redis === null ? t.offText.redis : t.redisText,
      works: redis === null ? null : member(redis, "works") === true, trouble: textOf(member(redis, "reason")), facts: redis,
    },
    { id: "store", title: `${t.store}: ${t.engines[engine] ?? engine}`, about: t.storeText, works: trouble === null, trouble, facts: withSizes(store) },
    ...folders.map((node): Link => ({
      id: node.name ?? node.part, title: `${t.folder}: ${textOf(member(node.detail, "path"))}`, about: t.folderText,
      works: node.state === "running", trouble: node.state === "running" ? null : (node.last_error?.message ?? null), facts: { looked_at: node.handled ?? 0, failed: node.failed ?? 0 },
    })),
  ];
}

/** Sizes in bytes in words, at any depth. */
function withSizes(value: Json): Json {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]): [string, Json] => {
      const size = name.endsWith("bytes") ? numberOf(inner) : null;
      if (size === null) return [name, withSizes(inner)];
      const short = name.replace(/_?bytes$/, "");
      return [short === "" || short in value ? t.size(short) : short, bytes(size)];
    }),
  );
}

export function Links() {
  if (links.value === null) return <Waiting />;
  return (
    <div class="cards">
      {links.value.map((link) => (
        <section key={link.id} class="card link-card" aria-label={link.title}>
          <header>
            <h2>{link.title}</h2>
            <span class={`badge ${link.works === null ? "" : link.works ? "good" : "bad"}`}>{link.works === null ? t.off : link.works ? t.well : t.ill}</span>
          </header>
          <p class="muted small">{link.about}</p>
          {link.trouble !== null && <p class="note bad">{link.trouble}</p>}
          {link.works !== null && <JsonFacts value={link.facts} without={HEADS} />}
          {link.id === "nats" && link.works !== null && (
            <p class="small">
              <a href="#letters">{t.toLetters}</a>
            </p>
          )}
        </section>
      ))}
    </div>
  );
}
