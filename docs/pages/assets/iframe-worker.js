// Browsers refuse workers to pages that are read from disk. The search is one, so that there it runs
// in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.frame = frame;
      this.loaded = new Promise((done) => {
        const inside = frame.contentWindow;
        // What a worker has, and a window has not.
        inside.postMessage = (data) => {
          this.dispatchEvent(new MessageEvent("message", { data }));
        };
        const load = (src) =>
          new Promise((ready, failed) => {
            const script = inside.document.createElement("script");
            script.src = new URL(src, document.baseURI).href;
            script.onload = ready;
            script.onerror = failed;
            inside.document.body.append(script);
          });
        inside.importScripts = (...sources) =>
          sources.reduce((before, src) => before.then(() => load(src)), Promise.resolve());
        load(url).then(done);
      });
    }

    postMessage(data) {
      this.loaded.then(() => {
        const { contentWindow } = this.frame;
        contentWindow.dispatchEvent(new contentWindow.MessageEvent("message", { data }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
