// What a value is: its members with their types and rules. What lies deeper is folded, and drawn when it is opened: schemas
// refer to themselves.

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { reference as t } from "../shared/texts-reference";
import { Markdown } from "./markdown";
import { hasMembers, membersOf, nameOf, resolve, rulesOf, typeOf, within, type OpenApi, type Schema } from "./openapi";

interface SchemaProps {
  api: OpenApi;
  schema: Schema;
}

/** All there is to say of a schema. */
export function SchemaView({ api, schema: given }: SchemaProps) {
  const schema = resolve(api, given);
  const { allOf, properties, patternProperties, required = [] } = schema;
  const forms = schema.oneOf ?? schema.anyOf;
  return (
    <div class="schema">
      {nameOf(given) !== null && schema.description && <Markdown text={schema.description} />}
      {schema.enum && <Values of={schema.enum} />}
      {allOf?.map((part, at) => <SchemaView key={at} api={api} schema={part} />)}
      {properties && (
        <dl class="members">
          {membersOf(schema).map(([name, member]) => (
            <Member key={name} api={api} name={name} schema={member} required={required.includes(name)} />
          ))}
          {Object.entries(patternProperties ?? {}).map(([name, member]) => (
            <Member key={name} api={api} name={name} schema={member} required={false} />
          ))}
        </dl>
      )}
      {schema.additionalProperties === false && <p class="muted small">{t.rule.noOther}</p>}
      {forms?.map((form, at) => <Folded key={at} api={api} schema={form} label={formName(api, form, at)} />)}
      {forms === undefined && within(api, schema).map((part, at) => <Folded key={at} api={api} schema={part} label={typeOf(part)} />)}
    </div>
  );
}

/** The name of a form: what it refers to, or the constant that tells it apart. */
function formName(api: OpenApi, form: Schema, at: number): string {
  const properties = resolve(api, form).properties ?? {};
  for (const member of Object.values(properties)) if (member.enum?.length === 1) return String(member.enum[0]);
  const type = typeOf(form);
  return type === "object" ? t.rule.choice(at + 1) : type;
}

function Values({ of }: { of: unknown[] }) {
  return (
    <p class="values small">
      {t.rule.oneOf}{" "}
      {of.map((value) => (
        <code key={String(value)}>{String(value)}</code>
      ))}
    </p>
  );
}

interface MemberProps extends SchemaProps {
  name: string;
  required: boolean;
  /** Where it stands, of a parameter. */
  place?: string;
  description?: string | undefined;
}

/** A member or a parameter. */
export function Member({ api, name, schema, required, place, description = schema.description }: MemberProps) {
  const itself = resolve(api, schema);
  const rules = rulesOf(schema);
  const forms = schema.oneOf ?? schema.anyOf ?? [];
  return (
    <div class="member">
      <dt>
        <code class="name">{name}</code> <span class="type">{typeOf(schema)}</span>
        {place && <span class="muted small">{place}</span>}
        {required && <span class="badge accent">{t.required}</span>}
      </dt>
      <dd>
        {description && <Markdown text={description} />}
        {rules.length > 0 && <p class="muted small">{rules.join(", ")}</p>}
        {schema.enum && <Values of={schema.enum} />}
        {nameOf(schema) !== null && itself.enum && <Values of={itself.enum} />}
        {nameOf(schema) !== null && !itself.enum && hasMembers(api, schema) && <Folded api={api} schema={schema} label={typeOf(schema)} />}
        {nameOf(schema) === null && (schema.properties || schema.allOf) && <Folded api={api} schema={schema} label={typeOf(schema)} />}
        {forms.filter((form) => hasMembers(api, form)).map((form, at) => <Folded key={at} api={api} schema={form} label={typeOf(form)} />)}
        {nameOf(schema) === null && forms.length === 0 && !schema.properties && !schema.allOf && within(api, schema).map((part, at) => <Folded key={at} api={api} schema={part} label={typeOf(part)} />)}
      </dd>
    </div>
  );
}

/** A schema that is drawn when it is opened. */
export function Folded({ api, schema, label, children }: SchemaProps & { label: string; children?: ComponentChildren }) {
  const open = useSignal(false);
  if (!hasMembers(api, schema)) return <p class="type">{label}</p>;
  return (
    <details class="folded" onToggle={(event) => (open.value = event.currentTarget.open)}>
      <summary>{label}</summary>
      {children}
      {open.value && <SchemaView api={api} schema={schema} />}
    </details>
  );
}
