/* Runs anywidgets on a page with no kernel, no CDN and no requirejs, from the state that myst-nb embeds.
   Knows anywidget models only (not VBox, sliders, jslink ...): anything else gets a plain note. */
(() => {
  const T = "application/vnd.jupyter.widget-", qs = (t) => [...document.querySelectorAll(`script[type="${T}${t}+json"]`)];
  const bytes = (s) => new DataView(Uint8Array.from(atob(s), (c) => c.charCodeAt(0)).buffer);
  function makeModel(state) {
    const on = {};
    return {
      get: (k) => state[k],
      set(k, v) {
        const kv = typeof k === "string" ? { [k]: v } : k, hit = Object.keys(kv).filter((n) => state[n] !== kv[n]);
        Object.assign(state, kv);
        for (const n of hit) for (const f of [...(on["change:" + n] ?? [])]) f(this, kv[n]);
        if (hit.length) for (const f of [...(on.change ?? [])]) f(this);
      },
      on(e, f) { for (const n of e.split(" ")) (on[n] ??= []).push(f); },
      off(e, f) { for (const n of e ? e.split(" ") : Object.keys(on)) on[n] = f ? (on[n] ?? []).filter((g) => g !== f) : []; },
      save_changes() {}, send() {}, widget_manager: {},
    };
  }
  async function main() {
    const models = {};
    for (const s of qs("state")) for (const [id, m] of Object.entries(JSON.parse(s.textContent).state)) {
      for (const b of m.buffers ?? []) b.path.slice(0, -1).reduce((o, k) => o[k], m.state)[b.path.at(-1)] = bytes(b.data);
      models[id] = m;
    }
    for (const s of qs("view")) {
      const m = models[JSON.parse(s.textContent).model_id], el = document.createElement("div");
      s.after(el); el.className = "anywidget-offline";
      if (m?.model_module !== "anywidget") { el.innerHTML = "<p><em>This control needs a running notebook.</em></p>"; continue; }
      try {
        if (m.state._css && !document.getElementById("css-" + m.state._anywidget_id)) {
          const c = document.createElement("style"); c.id = "css-" + m.state._anywidget_id; c.textContent = m.state._css; document.head.append(c);
        }
        m.model ??= makeModel(m.state);
        m.def ??= (async () => {
          const url = URL.createObjectURL(new Blob([m.state._esm], { type: "text/javascript" }));
          let d = (await import(url)).default; if (typeof d === "function") d = await d();
          await d.initialize?.({ model: m.model }); return d;
        })();
        await (await m.def).render?.({ model: m.model, el });
      } catch (e) { console.error(e); el.innerHTML = "<p><em>This figure could not start.</em></p>"; }
    }
  }
  document.readyState === "loading" ? addEventListener("DOMContentLoaded", main) : main();
})();
