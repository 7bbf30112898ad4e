// Drives the chat page of a running answerd in Chromium, on the documents of data/sample.
//
//     npm ci && node chat.mjs http://127.0.0.1:8080 screenshots
//
// The first argument is the address of the service, the second a folder for screenshots. CHROMIUM names the
// browser where it is not in the PATH. Each check is for a promise of the page; the exit code is 1 if one is broken.
// Where a check needs a certain answer (citations, errors), the service's answer is replaced by a canned one.

import { accessSync, constants, mkdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium } from "playwright-core";

const [base, folder] = process.argv.slice(2);
if (!base || !folder) {
  console.error("usage: node chat.mjs <address of the service> <folder for screenshots>");
  process.exit(2);
}
mkdirSync(folder, { recursive: true });
const origin = new URL(base).origin;

/** The longest that an answer may take to begin, or to end; a small machine reads a prompt in seconds. */
const ANSWER_MS = 120_000;

function findBrowser() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const place of (process.env.PATH ?? "").split(delimiter)) {
    for (const name of ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]) {
      try {
        accessSync(join(place, name), constants.X_OK);
        return join(place, name);
      } catch {
        // not here
      }
    }
  }
  console.error("no Chromium in the PATH: install one, or name it in CHROMIUM");
  process.exit(2);
}

const browser = await chromium.launch({
  executablePath: findBrowser(),
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

let passed = 0;
let failed = 0;
/** What browsers of all pages logged as errors, unless a check caused it on purpose. */
const consoleErrors = [];
const foreignRequests = [];
/** Bodies of the questions sent. */
const asked = [];
let errorsExpected = false;

function ensure(condition, message) {
  if (!condition) throw new Error(message);
}

async function check(promise, work) {
  try {
    await work();
    passed++;
    console.log(`ok    ${promise}`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${promise}\n      ${String(error.message).split("\n").slice(0, 4).join("\n      ")}`);
  }
}

async function open(options) {
  const context = await browser.newContext({ reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (message.type() === "error" && !errorsExpected) consoleErrors.push(message.text());
  });
  page.on("pageerror", (error) => consoleErrors.push(error.message));
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== origin && url.protocol !== "data:" && url.protocol !== "blob:") foreignRequests.push(request.url());
    if (request.method() === "POST") asked.push(request.postDataJSON());
  });
  await page.goto(origin, { waitUntil: "load" });
  return page;
}

const shot = (page, name) => page.screenshot({ path: join(folder, `${name}.png`) });
const last = (page) => page.locator(".turn").last();
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
const idle = (page, timeout = ANSWER_MS) => page.locator("#send", { hasText: "Send" }).waitFor({ timeout });

async function ask(page, question) {
  await page.fill("#question", question);
  await page.press("#question", "Enter");
}

/** Replaces the answer to the next question. */
async function nextAnswer(page, response) {
  await page.route("**/v1/answers", (route) => route.fulfill(response), { times: 1 });
}

function canned(events) {
  const body = events.map(([name, data]) => `event: ${name}\r\ndata: ${JSON.stringify(data)}\r\n\r\n`).join(": keep alive\r\n\r\n");
  return { status: 200, contentType: "text/event-stream", body };
}

function source(n, title) {
  return { n, document_id: "people/handbook.md", title, section: ["Section"], page: null, url: null, snippet: "Snippet", score: 0.1, revision: 1, start: 0, end: 10 };
}

// ---------------------------------------------------------------- desktop, on the real service

const page = await open({ viewport: { width: 1280, height: 800 } }).catch(async (error) => {
  console.error(`the page at ${origin} cannot be opened, is answerd running there? ${error.message.split("\n")[0]}`);
  await browser.close();
  process.exit(1);
});
page.setDefaultTimeout(10_000);

await check("the page offers examples and says how many documents there are", async () => {
  await page.locator("#examples button").first().waitFor({ timeout: 60_000 });
  ensure((await page.locator("#examples button").count()) === 3, "there are not three examples");
  const count = await page.textContent("#count");
  ensure(/^\d+ documents indexed$/.test(count), `the count says ${JSON.stringify(count)}`);
  await shot(page, "1-empty");
});

await check("Shift+Enter begins a new line and sends nothing", async () => {
  await page.fill("#question", "one");
  await page.press("#question", "Shift+Enter");
  await page.locator("#question").pressSequentially("two");
  ensure((await page.inputValue("#question")) === "one\ntwo", "the box does not hold two lines");
  ensure((await page.locator(".turn").count()) === 0, "a question was sent");
});

await check("an answer is streamed, with its sources and what it took", async () => {
  await page.evaluate(() => {
    window.lengths = new Set();
    new MutationObserver(() => window.lengths.add(document.querySelector(".answer")?.textContent.length ?? 0))
      .observe(document.querySelector("#turns"), { subtree: true, childList: true, characterData: true });
  });
  await page.locator("#question").fill("");
  await page.locator("#examples button").first().click();
  await page.locator("#send.stop").waitFor({ timeout: 5_000 });
  await last(page).locator(".source").first().waitFor({ timeout: ANSWER_MS });
  await page.waitForFunction(() => document.querySelector(".answer").textContent.length > 0, null, { timeout: ANSWER_MS });
  await shot(page, "2-streaming");
  await idle(page);
  const problem = await last(page).locator(".problem").allTextContents();
  ensure(problem.length === 0, `the service answered with a problem: ${problem}`);
  const steps = await page.evaluate(() => window.lengths.size);
  ensure(steps >= 3, `the answer came in ${steps} steps`);
  const facts = await last(page).locator(".facts").textContent();
  for (const part of [/\d tokens? in/, /\d out/, /first token \d/, /total \d/]) ensure(part.test(facts), `${part} is not in ${JSON.stringify(facts)}`);
  await shot(page, "3-answer");
});

await check("a source opens its document with the passage highlighted", async () => {
  const card = last(page).locator(".source").first();
  const snippet = await card.locator(".snippet").textContent();
  await card.locator(".open").click();
  const mark = page.locator("#passage mark");
  await mark.waitFor({ timeout: 10_000 });
  const text = (await mark.textContent()).toLowerCase();
  const words = snippet.toLowerCase().match(/\p{L}{4,}/gu) ?? [];
  ensure(words.length > 0, "the snippet has no words");
  const missing = words.filter((word) => !text.includes(word));
  ensure(missing.length === 0, `the highlighted text lacks ${missing} of the snippet: ${text}`);
  const all = await page.textContent("#passage-text");
  ensure(all.length > text.length, "the document around the passage is not shown");
  const [box, frame] = [await mark.boundingBox(), await page.locator("#passage-text").boundingBox()];
  ensure(box.y < frame.y + frame.height && box.y + box.height > frame.y, "the passage is not scrolled into sight");
  await shot(page, "4-passage");
  await page.keyboard.press("Escape");
  await page.locator("#passage").waitFor({ state: "hidden", timeout: 2_000 });
});
// Whatever became of it, the checks that follow need the page behind it.
await page.evaluate(() => document.querySelector("#passage").close());

await check("a follow-up is sent with the conversation so far", async () => {
  await ask(page, "And how many at most?");
  await idle(page);
  const { question, messages } = asked.at(-1);
  ensure(question === "And how many at most?", `the question sent is ${JSON.stringify(question)}`);
  ensure(messages.length === 2, `${messages.length} messages were sent, not 2`);
  ensure(messages[0].role === "user" && messages[1].role === "assistant", "the roles are not user, assistant");
  ensure(messages[1].content.length > 0 && !/\[\d+\]/.test(messages[1].content), "the earlier answer is empty, or still has its citations");
});

await check("Stop ends the answer at once", async () => {
  const questions = ["Explain all the rules for field visits.", "Explain everything about retries of webhooks.", "List all the rules for laptops."];
  let stopped = false;
  for (const question of questions) {
    await ask(page, question);
    await page.waitForFunction(() => [...document.querySelectorAll(".answer")].at(-1).textContent.length > 0, null, { timeout: ANSWER_MS, polling: 20 });
    // A short answer may be complete by now: then another question must do.
    stopped = await page.evaluate(() => {
      const button = document.querySelector("#send.stop");
      button?.click();
      return button !== null;
    });
    if (stopped) break;
  }
  ensure(stopped, "every answer was complete before Stop could be pressed");
  await idle(page, 2_000);
  const facts = await last(page).locator(".facts").textContent();
  ensure(facts.includes("stopped"), `the line below the answer says ${JSON.stringify(facts)}`);
  const before = await last(page).locator(".answer").textContent();
  await page.waitForTimeout(500);
  ensure((await last(page).locator(".answer").textContent()) === before, "the answer goes on after Stop");
  await shot(page, "5-stopped");
});

// ---------------------------------------------------------------- desktop, on canned answers

await check("a citation shows its source; one without a source stays text; HTML in an answer is text", async () => {
  await nextAnswer(page, canned([
    ["sources", { seq: 1, lag_ms: 0, sources: [source(1, "First"), source(2, "Second")] }],
    ["token", { text: "It is **so** [1, 2] and [" }],
    ["token", { text: "2]; not [7]. <img src=x onerror=alert(1)>\n\n- one\n- two" }],
    ["usage", { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15, cached_prompt_tokens: 0 }],
    ["done", { finish_reason: "stop", cached: true, seq: 1, lag_ms: 1500 }],
  ]));
  await ask(page, "Canned");
  await last(page).locator(".facts span").first().waitFor({ timeout: 5_000 });
  const answer = last(page).locator(".answer");
  ensure((await answer.locator(".cite").allTextContents()).join() === "1,2,2", "the citations are not 1, 2, 2");
  ensure((await answer.textContent()).includes("not [7]. <img src=x"), "what is no citation or Markdown was changed");
  ensure((await answer.locator("img").count()) === 0, "HTML of the answer became an element");
  ensure((await answer.locator("li").count()) === 2 && (await answer.locator("strong").textContent()) === "so", "Markdown is not rendered");
  const facts = await last(page).locator(".facts").textContent();
  ensure(facts.includes("from the cache") && facts.includes("as of 1.5 s ago"), `the line below the answer says ${JSON.stringify(facts)}`);
  await answer.locator(".cite").last().click();
  const chosen = last(page).locator(".source.chosen");
  ensure((await chosen.count()) === 1 && (await chosen.textContent()).includes("Second"), "the card of source 2 is not the chosen one");
  ensure(await chosen.locator(".open").evaluate((node) => node === document.activeElement), "the card has not got the focus");
});

await check("a refusal is shown with its reason, and Retry asks again", async () => {
  errorsExpected = true;
  const body = JSON.stringify({ title: "Too many requests", detail: "The queue is full.", status: 429 });
  await nextAnswer(page, { status: 429, contentType: "application/problem+json", headers: { "Retry-After": "3" }, body });
  await ask(page, "Refused");
  const problem = last(page).locator(".problem");
  await problem.waitFor({ timeout: 5_000 });
  const text = await problem.textContent();
  for (const part of ["Too many requests", "The queue is full.", "3 seconds"]) ensure(text.includes(part), `${part} is not in ${JSON.stringify(text)}`);
  await shot(page, "6-refused");
  await nextAnswer(page, canned([["token", { text: "Now." }], ["done", { finish_reason: "stop", cached: false, seq: 1, lag_ms: 0 }]]));
  await problem.locator("button").click();
  await last(page).locator(".answer", { hasText: "Now." }).waitFor({ timeout: 5_000 });
  ensure((await last(page).locator(".problem").count()) === 0, "the problem is still shown");
});

await check("a stream that breaks off is not shown as complete", async () => {
  await nextAnswer(page, canned([["token", { text: "Half an" }]]));
  await ask(page, "Broken");
  await last(page).locator(".problem", { hasText: "not complete" }).waitFor({ timeout: 5_000 });
});

await check("without a connection the page says so", async () => {
  await page.context().setOffline(true);
  await page.locator("#offline", { hasText: "offline" }).waitFor({ timeout: 5_000 });
  await ask(page, "Anybody there?");
  await last(page).locator(".problem", { hasText: "offline" }).waitFor({ timeout: 5_000 });
  await page.context().setOffline(false);
});
errorsExpected = false;

await check("New conversation begins from nothing", async () => {
  await page.click("#new");
  await page.locator("#empty").waitFor();
  ensure((await page.locator(".turn").count()) === 0, "there are still turns");
});

await check("events are read alike however the connection cuts them", async () => {
  const wrong = await page.evaluate(async () => {
    const { EventStreamParser } = await import("/ui/sse.js");
    const stream = ': hello\r\n\r\nevent: token\r\nid: 1\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata:plain\n\nevent: lost\n\ndata\rdata: x\r\revent: done\ndata: end\n\ndata: unfinished';
    const expected = JSON.stringify([["token", '{"a":\n1}'], ["message", "plain"], ["message", "\nx"], ["done", "end"]]);
    for (let size = 1; size <= stream.length; size++) {
      for (let first = 0; first < size; first++) {
        const parser = new EventStreamParser();
        const events = parser.push(stream.slice(0, first));
        for (let at = first; at < stream.length; at += size) events.push(...parser.push(stream.slice(at, at + size)));
        const got = JSON.stringify(events.map((event) => [event.name, event.data]));
        if (got !== expected) return `reads of ${size} after ${first}: ${got}`;
      }
    }
    return null;
  });
  ensure(wrong === null, wrong);
});

// ---------------------------------------------------------------- phone

await check("a phone of 375 px shows all of it without scrolling sideways", async () => {
  const phone = await open({ viewport: { width: 375, height: 812 }, isMobile: true, hasTouch: true, colorScheme: "dark" });
  await phone.locator("#examples button").first().waitFor({ timeout: 60_000 });
  ensure((await overflow(phone)) <= 0, "the empty page is too wide");
  await shot(phone, "7-phone-empty");
  const wide = `| a | b |\n| --- | --- |\n| ${"wide ".repeat(30)} | x |\n\n\`\`\`\n${"code ".repeat(60)}\n\`\`\`\n\n${"w".repeat(200)} [1]`;
  await nextAnswer(phone, canned([
    ["sources", { seq: 1, lag_ms: 0, sources: [source(1, "t".repeat(120))] }],
    ["token", { text: wide }],
    ["done", { finish_reason: "stop", cached: false, seq: 1, lag_ms: 0 }],
  ]));
  await ask(phone, "q".repeat(150));
  await last(phone).locator(".facts span").first().waitFor({ timeout: 5_000 });
  ensure((await overflow(phone)) <= 0, "an answer with a wide table, code and long words is too wide");
  await ask(phone, "How high is the limit for a hotel?");
  await idle(phone);
  ensure((await last(phone).locator(".source").count()) > 0, "there are no sources");
  ensure((await overflow(phone)) <= 0, "the answer is too wide");
  await shot(phone, "8-phone-answer");
  await last(phone).locator(".open").first().tap();
  await phone.locator("#passage mark").waitFor({ timeout: 10_000 });
  ensure((await overflow(phone)) <= 0, "the passage is too wide");
  await shot(phone, "9-phone-passage");
});

await check("nothing was logged as an error", async () => ensure(consoleErrors.length === 0, consoleErrors.join("\n")));
await check("nothing was asked of another host", async () => ensure(foreignRequests.length === 0, foreignRequests.join("\n")));

await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
