// How the pages are built: four HTML files that share their modules, every other file under a hashed name, and
// a compressed copy (.br, .gz) beside each text file, so that the service compresses nothing at run time.

import { readFile, readdir, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, constants, gzip } from "node:zlib";
import { defineConfig, type Plugin } from "vitest/config";

const here = import.meta.dirname;
const service = process.env["ANSWERD"] ?? "http://127.0.0.1:8080";

/** What the service sends with each page. `npm run preview` does the same, so that a breach shows before the service
    embeds the pages. */
const policy = [
  "default-src 'self'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'self'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types dompurify answerd",
].join("; ");

const proxy = {
  "/v1": service,
  "/readyz": service,
  "/healthz": service,
  "/openapi.json": service,
  // The page itself is at /admin and comes from here; below it is its data.
  "^/admin/.+": service,
};

/** Serves the pages where the service does: `/documents`, not `/documents.html`. */
function cleanPaths(): Plugin {
  const rewrite = (request: { url?: string | undefined }, _: unknown, next: () => void) => {
    request.url = request.url?.replace(/^\/(documents|admin|docs)(?=$|[?#])/, "/$1.html");
    next();
  };
  return {
    name: "answerd:clean-paths",
    configureServer: (server) => void server.middlewares.use(rewrite),
    configurePreviewServer: (server) => void server.middlewares.use(rewrite),
  };
}

/** Nothing is painted before the script ran: the page would appear empty, and in the wrong theme. */
function renderOnce(): Plugin {
  return {
    name: "answerd:render-once",
    enforce: "post",
    apply: "build",
    transformIndexHtml: (html) => html.replaceAll('<script type="module"', '<script type="module" blocking="render"'),
  };
}

/** Writes a .br and a .gz beside each file that is text. */
function precompress(): Plugin {
  let out = "";
  return {
    name: "answerd:precompress",
    apply: "build",
    configResolved(config) {
      out = resolve(config.root, config.build.outDir);
    },
    async closeBundle() {
      const brotli = promisify(brotliCompress);
      const zip = promisify(gzip);
      const entries = await readdir(out, { recursive: true, withFileTypes: true });
      const files = entries.filter((entry) => entry.isFile() && /\.(js|css|html|svg)$/.test(entry.name));
      await Promise.all(
        files.map(async (entry) => {
          const path = join(entry.parentPath, entry.name);
          const content = await readFile(path);
          const best = { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: content.length } };
          await writeFile(`${path}.br`, await brotli(content, best));
          await writeFile(`${path}.gz`, await zip(content, { level: 9 }));
        }),
      );
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [cleanPaths(), renderOnce(), precompress()],
  build: {
    outDir: "dist",
    assetsDir: "ui",
    target: ["es2022"],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: ["index.html", "documents.html", "admin.html", "docs.html"].map((name) => join(here, name)),
    },
  },
  server: { proxy },
  preview: { proxy, headers: { "Content-Security-Policy": policy } },
  test: {
    environment: "jsdom",
    include: ["src/**/*.test.ts", "src/**/*.test.tsx"],
  },
});
