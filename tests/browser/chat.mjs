// Drives the chat page of a running answerd in Chromium, on the documents of data/sample.
//
//     npm ci && node chat.mjs http://127.0.0.1:8080 screenshots
//
// The first argument is the address of the service, the second a folder for screenshots. CHROMIUM names the
// browser where it is not in the PATH; ONLY=a|b runs the checks with that in their names; SHOTS=1 also takes each state at
// three widths, light and dark. Each check is for a promise of the page; the exit code is 1 if one is broken.
// Where a check needs a certain answer (citations, errors, a slow stream), a proxy gives it in the service's place.

import { readFile } from "node:fs/promises";
import http from "node:http";
import { join } from "node:path";
import { brotliCompressSync } from "node:zlib";
import { ANSWER_MS, Checks, Watch, accessible, commandLine, ensure, eventText, launch, overflow, shots, startProxy, streamEvents } from "./support.mjs";

const { base, folder } = commandLine("chat.mjs");
const checks = new Checks();
const check = checks.check.bind(checks);

// ---------------------------------------------------------------- what stands in for the service

/** Answers to the next questions, in the service's place: `(request, response, body) => Promise<void>`. */
const nextAnswers = [];
/** Requests for other paths that are answered here: path (as a pattern) and `(request, response, body) => void`. */
const stubs = new Map();
/** Canned answers that can be resumed: their events, by id. */
const streams = new Map();
/** Bodies and headers of the questions sent. */
const asked = [];

const proxy = await startProxy(base, [
  async (request, response, body) => {
    for (const [pattern, handler] of stubs) {
      if (pattern.test(`${request.method} ${request.url}`)) {
        await handler(request, response, body);
        return true;
      }
    }
    return false;
  },
  async (request, response, body) => {
    if (request.method !== "POST" || request.url !== "/v1/answers") return false;
    asked.push({ ...JSON.parse(body), headers: request.headers });
    const handler = nextAnswers.shift();
    await handler?.(request, response, body);
    return handler !== undefined;
  },
  async (request, response) => {
    const id = /^\/v1\/answers\/([\w-]+)\/events$/.exec(request.url)?.[1];
    const stream = streams.get(id);
    if (request.method !== "GET" || stream === undefined) return false;
    const last = request.headers["last-event-id"];
    await streamEvents(response, stream.events, { ...stream, id, from: last ? Number(last.split(":")[1]) + 1 : 0 });
    return true;
  },
  async (request, response) => {
    const id = /^\/v1\/answers\/([\w-]+)$/.exec(request.url)?.[1];
    if (request.method !== "DELETE" || !(id?.startsWith("canned") || streams.has(id))) return false;
    response.writeHead(204).end();
    return true;
  },
]);

const json = (status, value, headers = {}) => (_, response) => {
  response.writeHead(status, { "Content-Type": status < 400 ? "application/json" : "application/problem+json", ...headers });
  response.end(value === null ? undefined : JSON.stringify(value));
};
const problem = (status, type, title, detail, headers = {}) => json(status, { type: `urn:answerd:problem:${type}`, title, detail, status }, headers);

let cannedCount = 0;
/** The next answer comes at once, with these events. */
function canned(events) {
  const id = `canned${++cannedCount}`;
  nextAnswers.push((_, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream", Location: `/v1/answers/${id}` });
    response.end(eventText(events, id));
  });
}
/** The next answer comes so many events a second, and can be resumed. */
function slow(events, perSecond) {
  const id = `slow${++cannedCount}`;
  streams.set(id, { events, perSecond });
  nextAnswers.push((_, response) => streamEvents(response, events, { id, perSecond }));
}
/** The next answer goes no further than these events. */
function held(events) {
  const id = `canned${++cannedCount}`;
  nextAnswers.push(async (_, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream", Location: `/v1/answers/${id}` });
    response.write(eventText(events, id));
    await new Promise((resolve) => response.on("close", resolve));
  });
}

const source = (n, title, more = {}) => ({ n, document_id: "people/handbook.md", title, section: [title, "Section"], page: null, url: null, snippet: "Snippet of the passage.", score: 0.1, revision: 1, start: 0, end: 10, ...more });
const DONE = ["done", { finish_reason: "stop", cached: false, seq: 1, lag_ms: 0, lag_events: 0 }];
const USAGE = ["usage", { prompt_tokens: 512, completion_tokens: 140, total_tokens: 652, cached_prompt_tokens: 320 }];
const words = (text) => text.match(/\s*\S+|\s+$/g).map((word) => ["token", { text: word }]);

const RICH = `## Leave in short

Full-time employees have **28 days** of annual leave [1], and one more after every *three* full years [1, 2].

| Kind | Days | Paid |
| --- | ---: | --- |
| Annual leave | 28 | yes |
| Moving house | 1 | yes |
| Study | 4 | yes, with a [training budget](https://example.org/budget) |

1. Ask in Daybook, four weeks ahead for three days or more [1].
2. Wait for the team lead:
   - an answer comes within five working days,
   - no answer counts as a yes.

\`\`\`python
# How many days are left?
def left(days: int, taken: float = 0.0) -> str:
    return f"{days - taken} of {days} days are left"
\`\`\`

> Whoever falls ill during annual leave gets those days back with a certificate [3].

Use \`daybook leave --year 2026\` for an overview.`;
const RICH_SOURCES = ["sources", { seq: 1, lag_ms: 0, lag_events: 0, sources: [
  source(1, "Employee handbook", { section: ["Employee handbook", "Annual leave"], snippet: "Full-time employees have 28 days of annual leave, public holidays not counted. One more day is added after every three full years of service, up to 33 days.", start: 1085, end: 1744 }),
  source(2, "Employee handbook", { section: ["Employee handbook", "Other leave"], page: 12, snippet: "Death of a close relative: five paid days, not necessarily in a row. Moving house: one paid day, once every 24 months." }),
  source(3, "Employee handbook", { section: ["Employee handbook", "Illness"], url: "https://intranet.example/handbook", snippet: "A doctor's certificate is needed from the fourth calendar day of absence." }),
] }];

// ---------------------------------------------------------------- the page

const browser = await launch();
const watch = new Watch(proxy.origin);
const last = (page) => page.locator(".turn").last();
const idle = (page, timeout = ANSWER_MS) => page.locator("#send:not(.stop)").waitFor({ timeout });
const shot = (page, name) => page.screenshot({ path: join(folder, `${name}.png`) });
const state = async (page, name) => {
  if (process.env.SHOTS) await shots(page, folder, name);
  await accessible(page, name);
};
const answerOf = (page) => last(page).locator(".answer");

async function ask(page, question) {
  await page.fill("#question", question);
  await page.press("#question", "Enter");
}
async function fresh(page) {
  await page.goto(`${proxy.origin}/`, { waitUntil: "load" });
  await page.locator(".empty").waitFor();
}
/** What the service says that an answer is. */
async function served(id) {
  const response = await fetch(`${base}/v1/answers/${id}`);
  return response.json();
}
/** What is the same in Markdown and in what it is shown as. */
const lettersOf = (text) => text.replace(/[^\p{L}]/gu, "");
const lastId = (page) => page.evaluate(async () => {
  const database = await new Promise((resolve, reject) => Object.assign(indexedDB.open("answerd"), { onsuccess: (event) => resolve(event.target.result), onerror: reject }));
  const all = await new Promise((resolve) => (database.transaction("conversations").objectStore("conversations").getAll().onsuccess = (event) => resolve(event.target.result)));
  database.close();
  return all.flatMap((one) => one.turns).sort((a, b) => a.answer.startedMs - b.answer.startedMs).at(-1)?.answer.id ?? null;
});

const page = await watch.open(browser, "/", { viewport: { width: 1280, height: 800 } }).catch(async (error) => {
  console.error(`the page at ${base} cannot be opened, is answerd running there? ${error.message.split("\n")[0]}`);
  await browser.close();
  process.exit(1);
});
await page.context().grantPermissions(["clipboard-read", "clipboard-write"], { origin: proxy.origin });

// ---------------------------------------------------------------- on the real service

await check("the page offers examples and says how many documents there are", async () => {
  await page.locator("#examples button").first().waitFor({ timeout: 60_000 });
  ensure((await page.locator("#examples button").count()) === 3, "there are not three examples");
  const count = await page.textContent("#count");
  ensure(/^\d+ documents/.test(count), `the count says ${JSON.stringify(count)}`);
  await shot(page, "1-empty");
  await state(page, "empty");
});

await check("Shift+Enter begins a new line and sends nothing", async () => {
  await page.fill("#question", "one");
  await page.press("#question", "Shift+Enter");
  await page.locator("#question").pressSequentially("two");
  ensure((await page.inputValue("#question")) === "one\ntwo", "the box does not hold two lines");
  ensure((await page.locator(".turn").count()) === 0, "a question was sent");
  await page.fill("#question", "");
});

await check("an answer is streamed, with its sources and what it took", async () => {
  await page.evaluate(() => {
    window.lengths = new Set();
    new MutationObserver(() => window.lengths.add(document.querySelector(".answer")?.textContent.length ?? 0)).observe(document.querySelector("#main"), { subtree: true, childList: true, characterData: true });
  });
  // Not from the cache, whatever was asked before: that would come in one piece.
  await ask(page, `How many days of annual leave do I get, and what else is there? (${Date.now()})`);
  await page.locator("#send.stop").waitFor({ timeout: 5_000 });
  await last(page).locator(".source").first().waitFor({ timeout: ANSWER_MS });
  await page.waitForFunction(() => document.querySelector(".answer").textContent.length > 0, null, { timeout: ANSWER_MS });
  await shot(page, "2-streaming");
  await idle(page);
  ensure((await last(page).locator(".problem").count()) === 0, `the service answered with a problem: ${await last(page).textContent()}`);
  const steps = await page.evaluate(() => window.lengths.size);
  ensure(steps >= 3, `the answer came in ${steps} steps`);
  const facts = await last(page).locator(".facts").textContent();
  for (const part of [/\d tokens? in/, /\d out/, /first after \d/, /as of \d\d:\d\d/, /index up to date|behind/]) ensure(part.test(facts), `${part} is not in ${JSON.stringify(facts)}`);
  ensure(!facts.includes("cache"), "an answer that was just written is marked as cached");
  await shot(page, "3-answer");
});

await check("a source opens its document with the passage and the question's words highlighted", async () => {
  const card = last(page).locator(".source").first();
  const snippet = await card.locator(".snippet").textContent();
  const section = await card.locator(".place").textContent();
  await card.locator(".open").click();
  const mark = page.locator(".passage-mark");
  await mark.waitFor({ timeout: 10_000 });
  const text = (await mark.textContent()).toLowerCase();
  const told = snippet.toLowerCase().match(/\p{L}{4,}/gu) ?? [];
  ensure(told.length > 0, "the snippet has no words");
  const missing = told.filter((word) => !text.includes(word));
  ensure(missing.length === 0, `the highlighted text lacks ${missing} of the snippet: ${text}`);
  ensure((await page.locator(".passage-text").textContent()).length > text.length, "the document around the passage is not shown");
  ensure((await page.locator(".passage-place").textContent()).includes(section), `the section ${section} is not named`);
  ensure((await mark.locator(".word").count()) > 0, "no word of the question is marked");
  const [box, frame] = [await mark.boundingBox(), await page.locator(".passage-text").boundingBox()];
  ensure(box.y < frame.y + frame.height && box.y + box.height > frame.y, "the passage is not scrolled into sight");
  await shot(page, "4-passage");
  await state(page, "passage");
  await page.keyboard.press("Escape");
  await page.locator("dialog.passage").waitFor({ state: "detached", timeout: 2_000 });
  ensure(await card.locator(".open").evaluate((node) => node === document.activeElement), "the focus does not go back to the card");
});

// Whatever became of it, the checks that follow need the page behind it.
if (await page.locator("dialog.passage").count()) await page.keyboard.press("Escape");

await check("a follow-up is sent with the conversation so far", async () => {
  await ask(page, "And how many at most?");
  await idle(page);
  const { question, messages } = asked.at(-1);
  ensure(question === "And how many at most?", `the question sent is ${JSON.stringify(question)}`);
  ensure(messages.length === 2, `${messages.length} messages were sent, not 2`);
  ensure(messages[0].role === "user" && messages[1].role === "assistant", "the roles are not user, assistant");
  ensure(messages[1].content.length > 0 && !/\[\d+\]/.test(messages[1].content), "the earlier answer is empty, or still has its citations");
});

await check("Stop ends the answer at once, on the service too", async () => {
  await ask(page, `Explain all the rules for field visits. (${Date.now()})`);
  await last(page).locator(".source").first().waitFor({ timeout: ANSWER_MS });
  await page.click("#send.stop");
  await idle(page, 2_000);
  const facts = await last(page).locator(".facts").textContent();
  ensure(facts.includes("Stopped"), `the line below the answer says ${JSON.stringify(facts)}`);
  const before = await answerOf(page).textContent();
  await page.waitForTimeout(1_000);
  ensure((await answerOf(page).textContent()) === before, "the answer goes on after Stop");
  // While it reads the prompt, the model is not disturbed.
  let there = null;
  for (let tries = 0; tries < 100 && there?.status !== "ended"; tries++) {
    there = await served(await lastId(page));
    await page.waitForTimeout(100);
  }
  ensure(there.finish_reason === "cancelled", `on the service the answer is ${there.status}, ${there.finish_reason}`);
  await shot(page, "5-stopped");
});

await check("an answer goes on after the connection was cut", async () => {
  watch.errorsExpected = true;
  await ask(page, `Who agrees to overtime? (${Date.now()})`);
  await last(page).locator(".source").first().waitFor({ timeout: ANSWER_MS });
  await proxy.cut(600);
  await idle(page);
  ensure((await last(page).locator(".problem").count()) === 0, `there is a problem: ${await last(page).textContent()}`);
  const there = await served(await lastId(page));
  ensure(there.finish_reason === "stop" || there.finish_reason === "length", `the service ended the answer: ${there.finish_reason}`);
  const shown = lettersOf(await answerOf(page).textContent());
  ensure(shown === lettersOf(there.answer), `shown is ${JSON.stringify(shown)}, the answer is ${JSON.stringify(there.answer)}`);
  watch.errorsExpected = false;
});

await check("an answer goes on after a reload in its middle", async () => {
  await ask(page, `How fast must a SEV1 alert be acknowledged? (${Date.now()})`);
  await last(page).locator(".source").first().waitFor({ timeout: ANSWER_MS });
  await page.reload({ waitUntil: "load" });
  await last(page).waitFor();
  await idle(page);
  ensure((await last(page).locator(".problem").count()) === 0, `there is a problem: ${await last(page).textContent()}`);
  const there = await served(await lastId(page));
  ensure(there.finish_reason === "stop" || there.finish_reason === "length", `the service ended the answer: ${there.finish_reason}`);
  const shown = lettersOf(await answerOf(page).textContent());
  ensure(shown === lettersOf(there.answer), `shown is ${JSON.stringify(shown)}, the answer is ${JSON.stringify(there.answer)}`);
  ensure((await last(page).locator(".source").count()) > 0, "the sources are gone");
});

await check("the cached answer to the same question is marked, and Ask again goes past the cache", async () => {
  await fresh(page);
  const question = "How many days of annual leave do I get?";
  await ask(page, question);
  await idle(page);
  await fresh(page);
  await ask(page, question);
  await idle(page);
  ensure((await last(page).locator(".facts").textContent()).includes("From the cache"), "a cached answer is not marked");
  await last(page).locator(".answer-foot").getByRole("button", { name: "Ask again" }).click();
  await page.locator("#send.stop").waitFor({ timeout: 5_000 });
  await idle(page);
  ensure(asked.at(-1).headers["cache-control"] === "no-cache", "the question was not asked anew");
  ensure(!(await last(page).locator(".facts").textContent()).includes("From the cache"), "the new answer is marked as cached");
  await page.locator(".toast").getByRole("button", { name: "Undo" }).click();
  ensure((await last(page).locator(".facts").textContent()).includes("From the cache"), "the earlier answer did not come back");
});

// ---------------------------------------------------------------- on canned answers

await check("Markdown, tables, code and citations are rendered; chips open their passage", async () => {
  await fresh(page);
  canned([RICH_SOURCES, ...words(RICH), USAGE, ["done", { finish_reason: "stop", cached: true, seq: 1, lag_ms: 1500, lag_events: 2 }]]);
  await ask(page, "What should I know about leave?");
  await idle(page, 5_000);
  const answer = answerOf(page);
  ensure((await answer.locator(".cite").allTextContents()).join() === "1,1,2,1,3", `the citations are ${await answer.locator(".cite").allTextContents()}`);
  for (const what of ["h4", "strong", "em", "table td", "ol ul li", "blockquote", "p > code"]) ensure((await answer.locator(what).count()) > 0, `there is no ${what}`);
  await answer.locator(".hljs-keyword").first().waitFor({ timeout: 5_000 });
  const link = answer.locator("a");
  ensure((await link.getAttribute("rel")).includes("noopener") && (await link.textContent()).includes("example.org"), "a link does not say where it leads, or hands over the page");
  const facts = await last(page).locator(".facts").textContent();
  ensure(facts.includes("From the cache") && facts.includes("index 1.5 s behind (2 changes)"), `the line below the answer says ${JSON.stringify(facts)}`);
  const places = await last(page).locator(".place").allTextContents();
  ensure(places[1] === "Other leave › page 12", `the place of the second source is ${places[1]}`);
  ensure((await last(page).locator(".original").getAttribute("href")) === "https://intranet.example/handbook", "the original is not linked");
  await state(page, "answer");
  await answer.locator(".cite").nth(2).click();
  await page.locator("dialog.passage", { hasText: "page 12" }).waitFor({ timeout: 5_000 });
  await page.keyboard.press("Escape");
});

await check("a citation without a source stays text, and HTML in an answer is text", async () => {
  canned([["sources", { sources: [source(1, "First")] }], ["token", { text: "It is so [1] and [" }], ["token", { text: "1]; not [7]. <img src=x onerror=alert(1)>" }], DONE]);
  await ask(page, "Canned");
  await idle(page, 5_000);
  ensure((await answerOf(page).textContent()).includes("not [7]. <img src=x"), "what is no citation or Markdown was changed");
  ensure((await answerOf(page).locator("img").count()) === 0, "HTML of the answer became an element");
  ensure((await answerOf(page).locator(".cite").count()) === 2, "the citations are not both there");
});

await check("a place in the queue is shown while waiting", async () => {
  await fresh(page);
  held([["status", { stage: "queued", queue_position: 3 }]]);
  await ask(page, "Wait for it");
  await last(page).locator(".status", { hasText: "2 ahead" }).waitFor({ timeout: 5_000 });
  await state(page, "queued");
  await page.click("#send");
  await idle(page, 2_000);
});

await check("what is shown of an answer stays the same elements while it grows", async () => {
  await fresh(page);
  slow([RICH_SOURCES, ...words(RICH), USAGE, DONE], 60);
  await ask(page, "Slowly");
  await answerOf(page).locator("table").waitFor({ timeout: 10_000 });
  await page.evaluate(() => {
    window.first = document.querySelector(".answer .block");
    window.table = document.querySelector(".answer table");
    window.kinds = new Set();
    window.removed = [];
    new MutationObserver((changes) => {
      for (const change of changes) for (const node of change.removedNodes) if (node.nodeType === 1) window.removed.push(node.outerHTML.slice(0, 80));
      if (/(^|[^`])\*\*|\|\s*---|```/.test([...document.querySelectorAll(".answer .block")].map((block) => block.textContent).join("\n"))) window.kinds.add("raw Markdown");
    }).observe(document.querySelector(".answer"), { subtree: true, childList: true });
  });
  await shot(page, "6-growing");
  await idle(page, 20_000);
  const { same, kinds, removed } = await page.evaluate(() => ({ same: window.first.isConnected && window.table.isConnected, kinds: [...window.kinds], removed: window.removed }));
  ensure(same, "a finished block was replaced");
  ensure(kinds.length === 0, `for a moment there was ${kinds}`);
  // Colours come when they are loaded, and code has a line more each time: spans may be replaced.
  const other = removed.filter((html) => !/^<span/.test(html));
  ensure(other.length === 0, `elements were replaced: ${other.slice(0, 3).join("\n")}`);
});

await check("a cut in mid-answer loses nothing and repeats nothing", async () => {
  watch.errorsExpected = true;
  await fresh(page);
  const text = Array.from({ length: 120 }, (_, at) => `word${at} `).join("");
  slow([...words(text), DONE], 60);
  await ask(page, "Cut this");
  await answerOf(page).getByText("word20").waitFor();
  const cutting = proxy.cut(900);
  await last(page).locator(".status", { hasText: "Connecting again" }).waitFor({ timeout: 3_000 });
  await state(page, "reconnecting");
  await cutting;
  await idle(page, 20_000);
  ensure((await answerOf(page).textContent()).trim() === text.trim(), "the text is not the one that was sent");
  watch.errorsExpected = false;
});

await check("a reload in mid-answer loses nothing and repeats nothing", async () => {
  await fresh(page);
  const text = Array.from({ length: 120 }, (_, at) => `word${at} `).join("");
  slow([...words(text), DONE], 40);
  await ask(page, "Reload this");
  await answerOf(page).getByText("word30").waitFor();
  await page.reload({ waitUntil: "load" });
  await answerOf(page).getByText("word50").waitFor();
  await page.reload({ waitUntil: "load" });
  await answerOf(page).getByText("word119").waitFor({ timeout: 20_000 });
  await idle(page, 5_000);
  ensure((await answerOf(page).textContent()).trim() === text.trim(), "the text is not the one that was sent");
});

await check("a long answer does not move while it is read; its end is kept in sight for who goes there", async () => {
  await fresh(page);
  canned([["token", { text: "Short." }], DONE]);
  await ask(page, "First");
  await idle(page, 5_000);
  slow([...words("A line of the answer.\n\n".repeat(80)), DONE], 90);
  await ask(page, "Second");
  const top = () => page.evaluate(() => document.querySelector(".scroller").scrollTop);
  const question = last(page).locator("h2");
  await page.locator(".to-end").waitFor({ timeout: 10_000 });
  const before = await top();
  const [box, frame] = [await question.boundingBox(), await page.locator(".scroller").boundingBox()];
  ensure(box.y >= frame.y && box.y < frame.y + 80, "the question is not at the top");
  await page.waitForTimeout(400);
  ensure((await top()) === before, "the answer moved");
  await page.click(".to-end");
  await page.locator(".to-end").waitFor({ state: "detached" });
  const then = await top();
  await page.waitForTimeout(600);
  ensure((await top()) > then, "the end is not kept in sight");
  await page.mouse.move(700, 400);
  await page.mouse.wheel(0, -300);
  await page.waitForTimeout(300);
  const up = await top();
  await page.waitForTimeout(400);
  ensure((await top()) === up, "the answer moved after it was scrolled back");
  await idle(page, 20_000);
});

await check("a second tab shows the conversation and follows its answer", async () => {
  await fresh(page);
  const text = Array.from({ length: 150 }, (_, at) => `word${at} `).join("");
  slow([...words(text), DONE], 40);
  await ask(page, "Two tabs");
  await answerOf(page).getByText("word10").waitFor();
  const second = await watch.open(browser, `/${new URL(page.url()).hash}`, { context: page.context() });
  await answerOf(second).getByText("word40").waitFor();
  await answerOf(second).getByText("word149").waitFor({ timeout: 20_000 });
  await idle(second, 5_000);
  await page.bringToFront();
  await idle(page, 20_000);
  for (const one of [page, second]) ensure((await answerOf(one).textContent()).trim() === text.trim(), "a tab has another text");
  slow([["token", { text: "Seen in both." }], DONE], 50);
  await ask(second, "Asked in the second tab");
  await idle(second, 5_000);
  await page.locator(".turn", { hasText: "Asked in the second tab" }).waitFor({ timeout: 5_000 });
  await page.locator(".turn", { hasText: "Seen in both." }).waitFor({ timeout: 5_000 });
  ensure((await page.locator(".turn").count()) === 2, "the first tab has not got both turns");
  await second.close();
});

await check("an answer goes on in the background while another conversation is open", async () => {
  await fresh(page);
  slow([...words("back ".repeat(80)), DONE], 60);
  await ask(page, "In the background");
  await answerOf(page).getByText("back").waitFor();
  await page.click("#new");
  await page.locator(".empty").waitFor();
  await page.locator(".entry", { hasText: "In the background" }).locator(".spinner").waitFor({ timeout: 5_000 });
  await page.locator(".entry", { hasText: "In the background" }).locator(".spinner").waitFor({ state: "detached", timeout: 10_000 });
  await page.locator(".entry a", { hasText: "In the background" }).click();
  ensure((await answerOf(page).textContent()).trim().split(" ").length === 80, "the answer is not complete");
});

await check("edit and ask again takes the place of what came after, and can be undone", async () => {
  await fresh(page);
  for (const word of ["One", "Two"]) {
    canned([["token", { text: `Answer ${word}.` }], DONE]);
    await ask(page, `Question ${word}`);
    await idle(page, 5_000);
  }
  const first = page.locator(".turn").first();
  await first.hover();
  await first.getByRole("button", { name: "Edit and ask again" }).click();
  await state(page, "editing");
  canned([["token", { text: "Answer Three." }], DONE]);
  await first.locator("textarea").fill("Question Three");
  await first.locator("textarea").press("Enter");
  await page.getByText("Answer Three.").waitFor();
  ensure((await page.locator(".turn").count()) === 1, "the later question is still there");
  ensure(asked.at(-1).messages.length === 0, "what was replaced was sent along");
  await page.locator(".toast").getByRole("button", { name: "Undo" }).click();
  await page.getByText("Answer Two.").waitFor();
  await page.reload({ waitUntil: "load" });
  ensure((await page.locator(".turn").allTextContents()).join().includes("Answer One."), "the earlier turns are not kept");
});

await check("questions, answers and code are copied", async () => {
  await fresh(page);
  canned([["token", { text: "Some **text**.\n\n```sh\nls -l\n```" }], DONE]);
  await ask(page, "Copy me");
  await idle(page, 5_000);
  const clip = () => page.evaluate(() => navigator.clipboard.readText());
  await last(page).getByRole("button", { name: "Copy the answer" }).click();
  await last(page).getByRole("button", { name: "Copied" }).waitFor({ timeout: 2_000 });
  ensure((await clip()) === "Some **text**.\n\n```sh\nls -l\n```", "the answer is not copied as it was written");
  await last(page).hover();
  await last(page).getByRole("button", { name: "Copy the question" }).click();
  await page.waitForFunction(async () => (await navigator.clipboard.readText()) === "Copy me");
  await last(page).locator(".code-copy").click();
  await page.waitForFunction(async () => (await navigator.clipboard.readText()) === "ls -l\n");
});

await check("conversations are searched, renamed, exported, deleted and had back", async () => {
  await fresh(page);
  canned([["token", { text: "It is the zebra." }], RICH_SOURCES, DONE]);
  await ask(page, "Which animal?");
  await idle(page, 5_000);
  await page.getByRole("searchbox").fill("zebra animal");
  await page.waitForFunction(() => document.querySelectorAll(".entry").length === 1);
  await page.getByRole("searchbox").fill("no such words at all");
  await page.getByText("No conversation has these words.").waitFor();
  await page.getByRole("searchbox").fill("");
  const entry = page.locator(".entry.open");
  const menu = async (item) => {
    await entry.hover();
    await entry.getByRole("button").click();
    await page.getByRole("menuitem", { name: item }).click();
  };
  await entry.hover();
  await entry.getByRole("button").click();
  await state(page, "menu");
  await page.keyboard.press("Escape");
  await menu("Rename");
  await state(page, "renaming");
  await page.getByRole("textbox", { name: "Name" }).fill("About animals");
  await page.keyboard.press("Enter");
  await page.locator(".entry.open", { hasText: "About animals" }).waitFor();
  // The page is told of it once the list is.
  await page.waitForFunction(() => document.title === "About animals – answerd", null, { timeout: 5_000 });
  for (const [item, wanted] of [["Export as Markdown", "It is the zebra."], ["Export as JSON", '"question": "Which animal?"']]) {
    const download = page.waitForEvent("download");
    await menu(item);
    const file = await download;
    ensure(file.suggestedFilename().startsWith("about-animals."), `the file is named ${file.suggestedFilename()}`);
    ensure((await readFile(await file.path(), "utf8")).includes(wanted), `the file lacks ${wanted}`);
  }
  await menu("Delete");
  await page.locator(".empty").waitFor();
  ensure((await page.locator(".entry", { hasText: "About animals" }).count()) === 0, "the conversation is still listed");
  await page.locator(".toast").getByRole("button", { name: "Undo" }).click();
  await page.getByText("It is the zebra.").waitFor();
});

await check("a choice of collections is sent with the question", async () => {
  stubs.set(/^GET \/v1\/collections/, json(200, { collections: [{ name: "hr", documents: 13 }, { name: "engineering", documents: 4 }, { name: "<b>odd</b>", documents: 1 }] }));
  await fresh(page);
  await page.locator(".collections").click();
  await page.locator(".collection-list").getByText("engineering").click();
  await state(page, "collections");
  await page.keyboard.press("Escape");
  canned([["token", { text: "Filtered." }], DONE]);
  await ask(page, "Only there");
  await idle(page, 5_000);
  ensure(JSON.stringify(asked.at(-1).filter) === '{"collection":["engineering"]}', `the filter sent is ${JSON.stringify(asked.at(-1).filter)}`);
  await last(page).getByText("In engineering").waitFor();
  await page.locator(".collections").click();
  await page.locator(".collection-list").getByText("All collections").click();
  await page.keyboard.press("Escape");
  stubs.clear();
});

await check("thumbs go to the service with a note, and are taken back", async () => {
  await fresh(page);
  const told = [];
  stubs.set(/^(POST|DELETE) \/v1\/answers\/[\w-]+\/feedback/, (request, response, body) => {
    told.push([request.method, body.length > 0 ? JSON.parse(body) : null]);
    response.writeHead(204).end();
  });
  canned([["token", { text: "Rate me." }], DONE]);
  await ask(page, "To be rated");
  await idle(page, 5_000);
  await last(page).getByRole("button", { name: "Bad answer" }).click();
  await page.getByRole("dialog").locator("textarea").fill("It is wrong.");
  await state(page, "feedback");
  await page.getByRole("dialog").getByRole("button", { name: "Send" }).click();
  await page.getByText("Your note was sent").waitFor();
  ensure((await last(page).getByRole("button", { name: "Bad answer" }).getAttribute("aria-pressed")) === "true", "the thumb is not pressed");
  await last(page).getByRole("button", { name: "Bad answer" }).click();
  await page.waitForFunction(() => document.querySelector('[aria-label="Bad answer"]').getAttribute("aria-pressed") === "false");
  const wanted = [["POST", { rating: "down" }], ["POST", { rating: "down", note: "It is wrong." }], ["DELETE", null]];
  ensure(JSON.stringify(told.map(([method, body]) => [method, body && { rating: body.rating, ...(body.note && { note: body.note }) }])) === JSON.stringify(wanted), `the service was told ${JSON.stringify(told)}`);
  stubs.clear();
});

watch.errorsExpected = true;

await check("a key is asked for where the service wants one, and sent from then on", async () => {
  const keys = [];
  const guard = (then) => (request, response, body) => {
    keys.push(request.headers.authorization ?? null);
    if (request.headers.authorization !== "Bearer secret") return problem(401, "unauthorized", "Sign in", "No valid key.")(request, response);
    return then(request, response, body);
  };
  stubs.set(/^GET \/v1\/me/, guard(json(200, { identity: true, name: "user:alice", scopes: ["ask"], groups: ["hr"], sees_all: false })));
  stubs.set(/^GET \/v1\/documents/, guard(json(200, { documents: [], next: null })));
  stubs.set(/^POST \/v1\/answers$/, guard((_, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream", Location: "/v1/answers/canned-key" });
    response.end(eventText([["token", { text: "Let in." }], DONE], "canned-key"));
  }));
  const page = await watch.open(browser, "/", { viewport: { width: 1280, height: 800 } });
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  await state(page, "sign-in");
  await page.keyboard.press("Escape");
  await page.waitForTimeout(6_000);
  ensure((await dialog.count()) === 0, "who does not sign in is asked again and again");
  await page.getByRole("button", { name: "Sign in" }).click();
  await dialog.locator("input[name=key]").fill("wrong");
  await page.keyboard.press("Enter");
  await dialog.getByText("does not know this key").waitFor();
  await dialog.locator("input[name=key]").fill("secret");
  await page.keyboard.press("Enter");
  await dialog.waitFor({ state: "detached" });
  await ask(page, "Who am I?");
  await page.getByText("Let in.").waitFor();
  ensure((await page.locator(".topbar nav").textContent()) === "ChatDocuments", "the admin page is offered to somebody who may not see it");
  await page.getByRole("button", { name: "Signed in as user:alice" }).click();
  // The page begins anew, with nothing of who has left.
  await Promise.all([page.waitForEvent("load"), page.getByRole("button", { name: "Sign out" }).click()]);
  ensure((await page.evaluate(() => JSON.stringify([{ ...sessionStorage }, { ...localStorage }]))).includes("secret") === false, "the key is still kept after signing out");
  stubs.clear();
  await page.close();
});

await check("a refusal is shown with its reason, and Try again asks again", async () => {
  await fresh(page);
  nextAnswers.push(problem(429, "overloaded", "Too many requests are being worked on", "The queue is full.", { "Retry-After": "2" }));
  await ask(page, "Refused");
  const note = last(page).locator(".problem");
  await note.waitFor({ timeout: 5_000 });
  const text = await note.textContent();
  for (const part of ["Too many requests", "The queue is full.", "2 seconds"]) ensure(text.includes(part), `${part} is not in ${JSON.stringify(text)}`);
  await shot(page, "7-refused");
  await state(page, "refused");
  canned([["token", { text: "Now." }], DONE]);
  await note.getByRole("button").click(); // once the wait is over
  await page.getByText("Now.").waitFor({ timeout: 5_000 });
  ensure((await last(page).locator(".problem").count()) === 0, "the problem is still shown");
});

await check("a budget that is used up is shown with its wait", async () => {
  await fresh(page);
  nextAnswers.push(problem(429, "over-budget", "Your tokens are used up", "The key may use 50,000 tokens a day.", { "Retry-After": "3600" }));
  await ask(page, "Too much");
  await last(page).locator('[data-kind="over-budget"]', { hasText: "in 1 h" }).waitFor({ timeout: 5_000 });
  ensure(await last(page).locator(".problem button").isDisabled(), "another try is offered before the wait is over");
  await state(page, "over-budget");
});

await check("a service that does not answer is not shown as an answer", async () => {
  await fresh(page);
  // A browser tries once more by itself where a connection that it had used before breaks.
  for (let tries = 0; tries < 5; tries++) nextAnswers.push((_, response) => response.destroy());
  await ask(page, "Nobody there");
  await last(page).locator(".problem", { hasText: "cannot be reached" }).waitFor({ timeout: 5_000 });
  nextAnswers.length = 0;
  nextAnswers.push((_, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.end(eventText([["token", { text: "Half an" }]]));
  });
  await ask(page, "Broken");
  await last(page).locator(".problem", { hasText: "not complete" }).waitFor({ timeout: 5_000 });
});

await check("without a connection the page says so", async () => {
  await fresh(page);
  await page.context().setOffline(true);
  await page.locator("#offline", { hasText: "offline" }).waitFor({ timeout: 5_000 });
  await ask(page, "Anybody there?");
  await last(page).locator(".problem", { hasText: "offline" }).waitFor({ timeout: 5_000 });
  await state(page, "offline");
  await page.context().setOffline(false);
  await page.locator("#offline", { hasText: "offline" }).waitFor({ state: "detached", timeout: 5_000 });
});

await check("a conversation that is still being read is shown as loading", async () => {
  await fresh(page);
  canned([["token", { text: "Here it is." }], DONE]);
  await ask(page, "To be loaded");
  await idle(page, 5_000);
  const holder = await watch.open(browser, "/", { context: page.context() });
  await holder.evaluate(() => new Promise((resolve) => {
    indexedDB.open("answerd").onsuccess = (event) => {
      // A transaction that goes on keeps all others waiting.
      const transaction = event.target.result.transaction(["conversations", "entries"], "readwrite");
      window.hold = true;
      const next = () => {
        if (window.hold) transaction.objectStore("entries").get("none").onsuccess = next;
      };
      next();
      resolve();
    };
  }));
  await page.reload({ waitUntil: "load" });
  await page.locator(".conversation-loading").waitFor();
  await state(page, "loading");
  await holder.evaluate(() => void (window.hold = false));
  await page.getByText("Here it is.").waitFor();
  await holder.close();
});

await check("a service without documents says so", async () => {
  stubs.set(/^GET \/v1\/documents/, json(200, { documents: [], next: null }));
  stubs.set(/^GET \/v1\/collections/, json(200, { collections: [] }));
  await fresh(page);
  await page.locator("#count", { hasText: "no documents yet" }).waitFor();
  await state(page, "no-documents");
  stubs.clear();
});

await check("what a document, question or answer says is never executed", async () => {
  const hostile = [
    '<script>alert("script")</script>',
    '<img src=x onerror="alert(\'img\')"><svg onload=alert(1)><iframe srcdoc="<script>alert(2)</script>"></iframe>',
    "[click](javascript:alert(3)) [data](data:text/html,<script>alert(4)</script>) <javascript:alert(5)>",
    '![x](https://evil.example/leak.png "onerror=alert(6)") ![y](x" onerror="alert(7))',
    "[1]: javascript:alert(8)\n\n[1] [2][1] [a][1]",
    '```"><script>alert(9)</script>\n</code></pre><script>alert(10)</script>\n```',
    "| a |\n| --- |\n| <img src=x onerror=alert(11)> |",
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(12)&gt;">',
    "<form action=https://evil.example><input name=q><button>Send</button></form><base href=https://evil.example/><meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "\u202Eevil\u202C \u0000 \uFEFF \uD83D\uDE00 Z̸̙͔̀a̵̛l̷g̶o a\u200Bb \u{E0001} \uFFFE",
    "**".repeat(200) + "[".repeat(300) + "`".repeat(99) + "_".repeat(99),
    "> ".repeat(80) + "deep",
    "<a href=\"javas\tcript:alert(13)\">x</a> <style>*{display:none}</style> <link rel=stylesheet href=https://evil.example/x.css>",
  ].join("\n\n");
  await fresh(page);
  const id = "test/hostile <script>alert('id')</script>.md";
  const path = id.split("/").map(encodeURIComponent).join("/");
  const put = await fetch(`${base}/v1/documents/${path}?wait=true&collection=${encodeURIComponent("hostile")}`, { method: "PUT", headers: { "Content-Type": "text/markdown" }, body: `# <img src=x onerror=alert("title")>\n\n${hostile.replaceAll("\u0000", "")}` });
  ensure(put.ok, `the document is not taken: ${put.status} ${await put.text()}`);
  const bytes = new TextEncoder().encode(hostile).length;
  const title = '<img src=x onerror=alert("title")>';
  slow([["sources", { sources: [1, 2].map((n) => source(n, title, { document_id: id, section: [title, title], snippet: hostile, url: n === 1 ? "javascript:alert(14)" : "https://host.example/<script>", revision: undefined, start: 4, end: Math.min(200, bytes) })) }], ...[...hostile.matchAll(/[\s\S]{1,7}/gu)].map(([text]) => ["token", { text }]), DONE], 400);
  await ask(page, hostile);
  await idle(page, 30_000);
  const bad = await page.evaluate(() => [...document.querySelectorAll("#turns :is(script, img, iframe, svg:not(.icon), form, base, meta, style, link, math, object, input), #turns a:not([href^='https://'], [href^='mailto:'])")].map((node) => node.outerHTML.slice(0, 100)));
  ensure(bad.length === 0, `there are elements of the answer's choice: ${bad}`);
  const handlers = await page.evaluate(() => [...document.querySelectorAll("#app *")].flatMap((node) => [...node.attributes]).filter((one) => /^on|^style$|^srcdoc$/.test(one.name) && one.ownerElement.closest("#turns")).map((one) => `${one.name}=${one.value}`));
  ensure(handlers.length === 0, `there are attributes of the answer's choice: ${handlers}`);
  ensure((await page.locator(".original").count()) === 1, "an address that is not of the web is linked");
  await state(page, "hostile");
  await last(page).locator(".source .open").first().click();
  await page.locator(".passage-text").waitFor();
  ensure((await page.locator(".passage-text").textContent()).includes("<script>alert"), "the document's text is not shown as it is");
  ensure((await page.locator(".passage-text :is(script, img, svg, iframe, a)").count()) === 0, "the document's text became elements");
  await page.keyboard.press("Escape");
  await page.waitForTimeout(300);
  await fetch(`${base}/v1/documents/${path}?wait=true`, { method: "DELETE" });
});

watch.errorsExpected = false;

// ---------------------------------------------------------------- phone, keyboard

await check("a phone of 375 px shows all of it without scrolling sideways", async () => {
  const phone = await watch.open(browser, "/", { viewport: { width: 375, height: 812 }, isMobile: true, hasTouch: true, colorScheme: "dark" });
  await phone.locator("#examples button").first().waitFor({ timeout: 60_000 });
  ensure((await overflow(phone)) <= 0, "the empty page is too wide");
  await shot(phone, "8-phone-empty");
  canned([["sources", { sources: [source(1, "t".repeat(120))] }], ["token", { text: `| a | b |\n| --- | --- |\n| ${"wide ".repeat(30)} | x |\n\n\`\`\`\n${"code ".repeat(60)}\n\`\`\`\n\n${"w".repeat(200)} [1]` }], DONE]);
  await ask(phone, "q".repeat(150));
  await idle(phone, 5_000);
  ensure((await overflow(phone)) <= 0, "an answer with a wide table, code and long words is too wide");
  const small = await phone.evaluate(() => [...document.querySelectorAll("button, a, input, textarea")].filter((node) => node.offsetParent !== null && !node.matches(".answer *, .source *")).map((node) => [node.getBoundingClientRect(), node.getAttribute("aria-label") ?? node.textContent]).filter(([box]) => box.height < 43.5).map(([box, name]) => `${name}: ${box.width} by ${box.height}`));
  ensure(small.length === 0, `too small to touch: ${small}`);
  await ask(phone, "How high is the limit for a hotel?");
  await idle(phone);
  ensure((await last(phone).locator(".source").count()) > 0, "there are no sources");
  ensure((await overflow(phone)) <= 0, "the answer is too wide");
  await shot(phone, "9-phone-answer");
  await last(phone).locator(".open").first().tap();
  await phone.locator(".passage-mark").waitFor({ timeout: 10_000 });
  ensure((await overflow(phone)) <= 0, "the passage is too wide");
  await shot(phone, "10-phone-passage");
  await phone.getByRole("button", { name: "Close" }).tap();
  await phone.locator("#sidebar-toggle").tap();
  await phone.locator(".sidebar.over").waitFor();
  await shot(phone, "11-phone-conversations");
  await accessible(phone, "the conversations on a phone");
  await phone.close();
});

await check("the page is used by keyboard alone", async () => {
  await fresh(page);
  canned([["sources", { sources: [source(1, "Employee handbook")] }], ["token", { text: "By keyboard [1]." }], DONE]);
  await page.keyboard.type("Keys only"); // the box has the focus
  await page.keyboard.press("Enter");
  await idle(page, 5_000);
  let reached = false;
  for (let steps = 0; steps < 60 && !reached; steps++) {
    await page.keyboard.press("Shift+Tab");
    reached = await page.evaluate(() => document.activeElement?.classList.contains("cite") === true);
  }
  ensure(reached, "the citation cannot be reached");
  await page.keyboard.press("Enter");
  await page.locator("dialog.passage").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("dialog.passage").waitFor({ state: "detached" });
  ensure(await page.evaluate(() => document.activeElement?.classList.contains("cite") === true), "the focus does not come back to the citation");
});

// ---------------------------------------------------------------- figures

/** The bytes of a response as they come over the network. */
const rawBytes = (url) => new Promise((resolve, reject) => {
  http.get(url, { headers: { "Accept-Encoding": "br, gzip" } }, async (response) => {
    const parts = [];
    for await (const part of response) parts.push(part);
    const body = Buffer.concat(parts);
    // A server for development compresses nothing; the service sends what the build compressed.
    resolve(response.headers["content-encoding"] ? body.length : brotliCompressSync(body).length);
  }).on("error", reject);
});

await check("JavaScript is less than 120 KiB compressed", async () => {
  const scripts = await page.evaluate(() => performance.getEntriesByType("resource").map((one) => one.name).filter((name) => /\.js$/.test(name)));
  ensure(scripts.length > 0, "no script was loaded");
  const sizes = await Promise.all([...new Set(scripts)].map(rawBytes));
  const total = sizes.reduce((sum, size) => sum + size, 0) / 1024;
  checks.figure("JavaScript, compressed, with the colours of code", `${total.toFixed(1)} KiB in ${sizes.length} files`);
  ensure(total < 120, `it is ${total} KiB`);
});

await check("a page that nothing of is cached is rendered", async () => {
  const page = await watch.open(browser, "/", { viewport: { width: 1280, height: 800 } });
  await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0);
  const ms = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
  checks.figure("first contentful paint, nothing cached", `${Math.round(ms)} ms`);
  ensure(await page.locator(".composer").isVisible(), "the question box is not there");
  await page.close();
});

await check("2,000 tokens at 200 a second are drawn as they come, and nothing moves", async () => {
  await fresh(page);
  const paragraph = `${RICH.replaceAll("## ", "### ")}\n\n`;
  const tokens = words(paragraph.repeat(20)).slice(0, 2000);
  slow([RICH_SOURCES, ...tokens, DONE], 200);
  await page.evaluate(() => {
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((one) => one.duration))).observe({ type: "longtask" });
    window.frames = 0;
    const count = () => {
      window.frames++;
      requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    // What is below the text goes down with it; the text itself must not move.
    window.shifts = 0;
    const ofText = (entry) => entry.sources.some(({ node }) => (node?.nodeType === 1 ? node : node?.parentElement)?.closest(".answer, .asked"));
    new PerformanceObserver((list) => (window.shifts += list.getEntries().filter(ofText).reduce((sum, one) => sum + one.value, 0))).observe({ type: "layout-shift" });
  });
  await page.bringToFront();
  const began = Date.now();
  await ask(page, "A long answer");
  await idle(page, 60_000);
  const took = (Date.now() - began) / 1000;
  const { tasks, frames, shifts } = await page.evaluate(() => ({ tasks: window.tasks, frames: window.frames, shifts: window.shifts }));
  checks.figure("2,000 tokens", `${took.toFixed(1)} s, ${Math.round(frames / took)} frames a second, ${tasks.length} tasks over 50 ms, the longest ${Math.round(Math.max(0, ...tasks))} ms, layout shift of the text ${shifts.toFixed(3)}`);
  // The columns of a table become wider with what comes in.
  ensure(shifts < 0.1, `the text moved while it was written: ${shifts}`);
  ensure((await answerOf(page).locator("table").count()) > 5, "the answer is not all there");
});

await check("memory stays flat over 500 answers", async () => {
  await fresh(page);
  const session = await page.context().newCDPSession(page);
  const used = async () => {
    await session.send("HeapProfiler.collectGarbage");
    const { usedSize } = await session.send("Runtime.getHeapUsage");
    const { nodes } = await session.send("Memory.getDOMCounters");
    return { mib: usedSize / 2 ** 20, nodes };
  };
  const marks = [];
  for (let count = 1; count <= 500; count++) {
    canned([RICH_SOURCES, ["token", { text: RICH }], USAGE, DONE]);
    await ask(page, `Question ${count}`);
    await page.waitForFunction((text) => {
      const turn = [...document.querySelectorAll(".turn")].at(-1);
      return turn?.dataset.state === "done" && turn.querySelector("h2")?.textContent === text;
    }, `Question ${count}`, { polling: 15 });
    if (count === 50 || count % 150 === 50) marks.push([count, await used()]);
  }
  checks.figure("memory", marks.map(([count, { mib, nodes }]) => `${mib.toFixed(1)} MiB and ${nodes} nodes after ${count}`).join(", "));
  const [first, end] = [marks[0][1], marks.at(-1)[1]];
  // The text of 450 answers with their sources is about 2 MiB.
  ensure(end.mib - first.mib < 10, `it grew by ${(end.mib - first.mib).toFixed(1)} MiB`);
  ensure(end.nodes < first.nodes * 2, `the nodes grew from ${first.nodes} to ${end.nodes}`);
  ensure((await page.locator(".turn").count()) <= 20, "all turns are on the page");
  await page.getByRole("button", { name: /earlier questions/ }).click();
  ensure((await page.locator(".turn").count()) === 40, "earlier turns are not shown");
});

await watch.atTheEnd(checks);
await browser.close();
proxy.close();
checks.end();
