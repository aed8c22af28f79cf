// Loaded into NNI's manager before its own code (node --require): who reaches it, and when it ends. See guard.py.
"use strict";
const http = require("http");
const Module = require("module");
const net = require("net");

const { hosts, parent, prefix, secret } = JSON.parse(process.env.BALENAS_GUARD);
delete process.env.BALENAS_GUARD; // or every trial would inherit it
process.argv.push(...secret); // on the command line every user of the machine could read it

// NNI listens on all interfaces: it names a port only.
const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (port, ...rest) {
  if (typeof port !== "number" || typeof rest[0] === "string") return listen.call(this, port, ...rest);
  for (const host of hosts.slice(1)) {
    const other = net.createServer((socket) => this.emit("connection", socket));
    listen.call(other, port, host).unref();
  }
  return listen.call(this, port, hosts[0], ...rest);
};

// NNI's WebSocket library accepts any path, and one that no handler expects ends the manager.
const inside = (path) => !prefix || `${path}/`.replace("?", "/").startsWith(`/${prefix}/`);
const { emit } = http.Server.prototype;
http.Server.prototype.emit = function (event, request, answer, ...rest) {
  if (!["request", "upgrade"].includes(event) || inside(request.url))
    return emit.call(this, event, request, answer, ...rest);
  if (event === "request") {
    answer.writeHead(404, { Connection: "close" }).end();
  } else { // the answer is a socket
    answer.on("error", () => {}).end("HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n");
    answer.destroySoon();
  }
  return true;
};

// Defects of NNI's remote service, mended when it is loaded.
const defects = {
  // It hears errors of an ssh connection only while that is made: a machine that starts anew would end the manager.
  ssh2: ({ Client }) => {
    const { connect } = Client.prototype;
    Client.prototype.connect = function (...options) {
      return connect.apply(this.on("error", () => {}), options);
    };
  },
  // It keeps a machine that it cannot start again, and asks it for ever, without a pause in which to hear of another.
  "../remote_v3": ({ RemoteTrainingServiceV3: Service }) => {
    const { createTrial, launchWorker } = Service.prototype;
    Service.prototype.createTrial = async function (...trial) {
      const made = await createTrial.apply(this, trial).catch(() => null);
      if (made === null) await new Promise((resolve) => setTimeout(resolve, 1000));
      return made;
    };
    Service.prototype.launchWorker = async function (machine) {
      try {
        return await launchWorker.call(this, machine);
      } catch (error) {
        this.workers = this.workers.filter((worker) => worker.config !== machine);
        this.emitEnvUpdate();
        throw error;
      }
    };
  },
};
const { _load } = Module;
Module._load = function (request, ...rest) {
  const loaded = _load.call(this, request, ...rest);
  const mend = defects[request];
  delete defects[request];
  mend?.(loaded);
  return loaded;
};

// NNI ends its trials and itself when it is asked to; whoever started it may be killed before it can ask.
const end = () => process.kill(process.pid, "SIGTERM");
process.on("SIGHUP", end);
const watch = setInterval(() => {
  if (process.ppid === parent) return;
  clearInterval(watch);
  end();
}, 500);
