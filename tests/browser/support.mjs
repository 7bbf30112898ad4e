// What the tests of the pages share: the browser, the checks, a proxy that can cut connections and answer in the
// service's place, and what must hold on every page: no error is logged, no other host is asked, nothing breaks the
// Content-Security-Policy, and axe finds nothing serious.

import { accessSync, constants, mkdirSync } from "node:fs";
import http from "node:http";
import { delimiter, join } from "node:path";
import axe from "axe-core";
import { chromium } from "playwright-core";

/** The longest that an answer may take to begin, or to end; a small machine reads a prompt in seconds. */
export const ANSWER_MS = 240_000;

/** The address of the service and the folder for screenshots, from the command line. */
export function commandLine(script) {
  const [base, folder] = process.argv.slice(2);
  if (!base || !folder) {
    console.error(`usage: node ${script} <address of the service> <folder for screenshots>`);
    process.exit(2);
  }
  mkdirSync(folder, { recursive: true });
  return { base: new URL(base).origin, folder };
}

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

export function launch() {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--js-flags=--expose-gc"];
  return chromium.launch({ executablePath: findBrowser(), args });
}

export function ensure(condition, message) {
  if (!condition) throw new Error(message);
}

/** Counts the checks, and says at the end what became of them. */
export class Checks {
  passed = 0;
  failed = 0;
  /** Parts of the names of the checks to run, from the environment, with `|` between; all without it. */
  only = (process.env.ONLY ?? "").split("|");

  async check(promise, work) {
    if (!this.only.some((part) => promise.includes(part))) return;
    const began = Date.now();
    const seconds = () => `${((Date.now() - began) / 1000).toFixed(1)} s`.padStart(7);
    try {
      await work();
      this.passed++;
      console.log(`ok   ${seconds()}  ${promise}`);
    } catch (error) {
      this.failed++;
      console.log(`FAIL ${seconds()}  ${promise}\n      ${String(error.message).split("\n").slice(0, 6).join("\n      ")}`);
    }
  }

  figure(name, value) {
    console.log(`      ${name}: ${value}`);
  }

  /** The last line, and the exit code. */
  end() {
    console.log(`${this.passed} passed, ${this.failed} failed`);
    process.exit(this.failed === 0 ? 0 : 1);
  }
}

/** What pages did that they must not do. */
export class Watch {
  consoleErrors = [];
  foreignRequests = [];
  violations = [];
  dialogs = [];
  /** While a check causes errors on purpose. */
  errorsExpected = false;
  /** The API key that pages are signed in with; none where the service does not ask who calls. */
  key = process.env.ANSWERD_KEY ?? null;

  constructor(origin) {
    this.origin = origin;
  }

  /** A new page in a browser context of its own (or in `options.context`), at a path. */
  async open(browser, path = "/", { context: given, ...options } = {}) {
    const context = given ?? (await browser.newContext({ reducedMotion: "reduce", ...options }));
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    page.on("console", (message) => {
      const text = message.text();
      if (/Content.Security.Policy|TrustedHTML|TrustedScript/i.test(text)) this.violations.push(text);
      if (message.type() === "error" && !this.errorsExpected) this.consoleErrors.push(`${text} ${message.location().url}`);
    });
    page.on("pageerror", (error) => this.consoleErrors.push(error.stack ?? error.message));
    // A dialog is what the hostile contents of tests try to open.
    page.on("dialog", (dialog) => {
      this.dialogs.push(dialog.message());
      void dialog.dismiss();
    });
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (url.origin !== this.origin && url.protocol !== "data:" && url.protocol !== "blob:") this.foreignRequests.push(request.url());
    });
    await page.exposeFunction("answerdViolation", (text) => void this.violations.push(text)).catch(() => {});
    await page.addInitScript(() => {
      addEventListener("securitypolicyviolation", (event) => window.answerdViolation(`${event.violatedDirective}: ${event.blockedURI} ${event.sample} ${event.sourceFile}:${event.lineNumber}`));
    });
    if (this.key !== null) await page.addInitScript((key) => sessionStorage.setItem("answerd.key", key), this.key);
    await page.goto(this.origin + path, { waitUntil: "load" });
    return page;
  }

  /** The checks that are for the end. */
  async atTheEnd(checks) {
    await checks.check("nothing was logged as an error", async () => ensure(this.consoleErrors.length === 0, this.consoleErrors.join("\n")));
    await checks.check("nothing was asked of another host", async () => ensure(this.foreignRequests.length === 0, this.foreignRequests.join("\n")));
    await checks.check("nothing broke the Content-Security-Policy", async () => ensure(this.violations.length === 0, this.violations.join("\n")));
    await checks.check("nothing that was shown was executed", async () => ensure(this.dialogs.length === 0, this.dialogs.join("\n")));
  }
}

/** What axe finds on a page that is serious or critical, in words; empty where it finds nothing. */
export async function seriousFindings(page) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  return violations
    .filter((one) => one.impact === "serious" || one.impact === "critical")
    .map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => `${node.target.join(" ")} (${node.any[0]?.message ?? node.all[0]?.message ?? ""})`).join("; ")}`);
}

export async function accessible(page, state) {
  const findings = await seriousFindings(page);
  ensure(findings.length === 0, `on ${state}: ${findings.join("\n")}`);
}

export const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

/** The text of server-sent events. */
export const eventText = (events, id = "canned") =>
  events.map(([name, data], at) => `id: ${id}:${at}\r\nevent: ${name}\r\ndata: ${JSON.stringify(data)}\r\n\r\n`).join(": keep alive\r\n\r\n");

/** A response with these events, for `route.fulfill`. */
export const canned = (events, id = "canned") => ({
  status: 200,
  contentType: "text/event-stream",
  headers: { Location: `/v1/answers/${id}` },
  body: eventText(events, id),
});

/** Stands between the browser and the service: it passes everything on, can cut the connections that are open, and answers
    in the service's place where one of `handlers` wants to (`(request, response, body) => boolean`). */
export async function startProxy(base, handlers = []) {
  const target = new URL(base);
  const open = new Set();
  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts);
    for (const handler of handlers) if (await handler(request, response, body)) return;
    const headers = { ...request.headers, host: target.host };
    const upstream = http.request({ host: target.hostname, port: target.port, path: request.url, method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
      answer.on("error", () => response.destroy());
    });
    upstream.on("error", () => response.destroy());
    response.on("close", () => upstream.destroy());
    upstream.end(body);
  });
  server.on("connection", (socket) => {
    if (server.refusing) return socket.destroy();
    open.add(socket);
    socket.on("close", () => open.delete(socket));
    socket.on("error", () => {});
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    handlers,
    /** Cuts all connections; refuses new ones for so long. */
    async cut(refuseMs = 0) {
      server.refusing = refuseMs > 0;
      for (const socket of open) socket.destroy();
      if (refuseMs > 0) await new Promise((resolve) => setTimeout(resolve, refuseMs));
      server.refusing = false;
    },
    close() {
      for (const socket of open) socket.destroy();
      server.close();
    },
  };
}

/** Writes events to a response, so many a second; returns when all are written or the reader is gone. */
export async function streamEvents(response, events, { perSecond = 200, id = "canned", from = 0 } = {}) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache", Location: `/v1/answers/${id}` });
  const began = Date.now();
  for (let at = from; at < events.length && !response.destroyed; ) {
    const due = Math.min(events.length, from + Math.floor(((Date.now() - began) / 1000) * perSecond) + 1);
    let text = "";
    for (; at < due; at++) text += `id: ${id}:${at}\nevent: ${events[at][0]}\ndata: ${JSON.stringify(events[at][1])}\n\n`;
    if (text !== "") response.write(text);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  response.end();
}

/** A screenshot at each width, light and dark: `<name>-<width>-<light|dark>.png`. */
export async function shots(page, folder, name) {
  const size = page.viewportSize();
  for (const width of [390, 820, 1440]) {
    await page.setViewportSize({ width, height: width === 390 ? 844 : width === 820 ? 1180 : 900 });
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(80);
      await page.screenshot({ path: join(folder, `${name}-${width}-${colorScheme}.png`) });
    }
  }
  await page.emulateMedia({ colorScheme: null });
  await page.setViewportSize(size);
}
