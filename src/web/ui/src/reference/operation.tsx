// One operation: folded to a line, and all that is said of it where it is open.

import type { ComponentChildren } from "preact";
import { useSignal } from "@preact/signals";
import { reference as t } from "../shared/texts-reference";
import { Code, Example, Markdown } from "./markdown";
import { curlOf, hasMembers, type Entry, type Media, type OpenApi, type ResponseOf } from "./openapi";
import { Folded, Member, SchemaView } from "./schema";

interface OperationProps {
  api: OpenApi;
  entry: Entry;
  open: boolean;
  onToggle: (open: boolean) => void;
}

/** Where this service is, as seen from here: a proxy may have put it below a path. */
const base = () => new URL(".", location.href).href.replace(/\/$/, "");

export function OperationCard({ api, entry, open, onToggle }: OperationProps) {
  const { path, method, operation } = entry;
  const toggle = (event: Event & { currentTarget: HTMLDetailsElement }) => onToggle(event.currentTarget.open);
  return (
    <details class="card operation" id={operation.operationId} open={open} onToggle={toggle}>
      <summary>
        <span class={`method ${method}`}>{method.toUpperCase()}</span>
        <h3>
          <code>{path}</code>
          <span>{operation.summary}</span>
        </h3>
      </summary>
      {open && <Body api={api} entry={entry} />}
    </details>
  );
}

function Body({ api, entry }: { api: OpenApi; entry: Entry }) {
  const { operation } = entry;
  const scopes = operation.security?.[0] ? Object.values(operation.security[0]).flat() : [];
  const { parameters = [], requestBody, responses, "x-frames": frames } = operation;
  // The scope is beside it.
  const description = (operation.description ?? "").replace(/\s*Scope: `\w+`$/, "");
  return (
    <div class="body">
      <p class="tags">
        {(operation.security ?? []).length === 0 && <span class="badge good">{t.everybody}</span>}
        {scopes.map((scope) => (
          <span key={scope} class="badge accent">
            {t.scope(scope)}
          </span>
        ))}
        <a class="small" href={`#${operation.operationId}`}>
          {t.link}
        </a>
      </p>
      {description !== "" && <Markdown text={description} />}
      <Section title={t.request}>
        <Code text={curlOf(entry, base())} language="bash" />
      </Section>
      {parameters.length > 0 && (
        <Section title={t.parameters}>
          <dl class="members">
            {parameters.map((one) => (
              <Member key={one.in + one.name} api={api} name={one.name} schema={one.schema ?? {}} required={one.required === true} place={t.places[one.in] ?? one.in} description={one.description} />
            ))}
          </dl>
        </Section>
      )}
      {requestBody && (
        <Section title={t.body}>
          {requestBody.description && <Markdown text={requestBody.description} />}
          <Content api={api} content={requestBody.content} open />
        </Section>
      )}
      {frames &&
        Object.entries(frames).map(([side, schema]) => (
          <Section key={side} title={t.frames[side] ?? side}>
            <SchemaView api={api} schema={schema} />
          </Section>
        ))}
      <Section title={t.responses}>
        {Object.entries(responses).map(([status, response]) => (
          <Response key={status} api={api} status={status} response={response} />
        ))}
      </Section>
    </div>
  );
}

function Section({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section>
      <h4>{title}</h4>
      {children}
    </section>
  );
}

function Response({ api, status, response }: { api: OpenApi; status: string; response: ResponseOf }) {
  const good = Number(status) < 400;
  const headers = Object.entries(response.headers ?? {});
  return (
    <details class="response" open={good}>
      <summary>
        <span class={`badge ${good ? "good" : "bad"}`}>{status}</span>
        <Markdown text={response.description} />
      </summary>
      {headers.length > 0 && (
        <dl class="members">
          {headers.map(([name, { description }]) => (
            <Member key={name} api={api} name={name} schema={{ type: "string" }} required={false} place={t.places["header"]!} description={description} />
          ))}
        </dl>
      )}
      {response.content && <Content api={api} content={response.content} open={good} />}
    </details>
  );
}

/** A body: one media type at a time, what it is and an example. */
function Content({ api, content, open }: { api: OpenApi; content: Record<string, Media>; open: boolean }) {
  const types = Object.keys(content);
  const chosen = useSignal(types[0]!);
  const media = content[chosen.value]!;
  const { schema, example, "x-item-schema": item } = media;
  return (
    <div class="content">
      {types.length > 1 ? (
        <div class="segments" role="group" aria-label={t.mediaType}>
          {types.map((type) => (
            <button key={type} type="button" class="button" aria-pressed={type === chosen.value} onClick={() => (chosen.value = type)}>
              {type}
            </button>
          ))}
        </div>
      ) : (
        <p class="muted small">
          <code>{chosen.value}</code>
        </p>
      )}
      {item && <Folded key={chosen.value} api={api} schema={item} label={t.events} />}
      {schema && !item && hasMembers(api, schema) && (open ? <SchemaView key={chosen.value} api={api} schema={schema} /> : <Folded api={api} schema={schema} label={t.schema} />)}
      {example !== undefined && (
        <details class="folded">
          <summary>{t.example}</summary>
          <Example value={example} />
        </details>
      )}
    </div>
  );
}
