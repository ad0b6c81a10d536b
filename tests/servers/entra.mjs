// A stand-in for Microsoft Entra ID and for a machine's identity service; see tests/src/servers/entra.rs.
//   serve <port> <machine port>   in a folder with server.pem and server.key
//   az                            what `az account get-access-token` prints
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";

const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");

// Azurite looks at audience, issuer and times, not at the signature.
function token(seconds) {
  const now = Math.floor(Date.now() / 1000);
  const claims = { aud: "https://storage.azure.com", iss: "https://sts.windows.net/test/", nbf: now - 600, iat: now - 600, exp: now + seconds };
  return `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}.${Buffer.from("unsigned").toString("base64url")}`;
}

function answer(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

const seen = new Set();

function entra(request, response) {
  let text = "";
  request.on("data", (chunk) => (text += chunk));
  request.on("end", () => {
    const form = new URLSearchParams(text);
    const client = form.get("client_id");
    const how = form.has("client_secret") ? "secret" : "assertion";
    console.log(`${client} ${how} ${form.get("scope")}`);
    if (client === "refused") {
      const error_description = "AADSTS7000215: Invalid client secret provided.";
      return answer(response, 401, { error: "invalid_client", error_description, error_codes: [7000215], timestamp: "", trace_id: "", correlation_id: "" });
    }
    // The first token of "withdrawn" has ended although it says otherwise; those of "short" have to be asked for again and again.
    const first = !seen.has(client);
    seen.add(client);
    const valid = client === "withdrawn" && first ? -60 : 3600;
    answer(response, 200, { token_type: "Bearer", expires_in: client === "short" ? 1 : 3600, ext_expires_in: 3600, access_token: token(valid) });
  });
}

function machine(request, response) {
  const url = new URL(request.url, "http://machine");
  console.log(`${url.searchParams.get("client_id") ?? "system"} machine ${request.headers["x-identity-header"]}`);
  const expires_on = String(Math.floor(Date.now() / 1000) + 3600);
  answer(response, 200, { token_type: "Bearer", expires_on, resource: url.searchParams.get("resource"), access_token: token(3600) });
}

const [mode, port, machinePort] = process.argv.slice(2);
if (mode === "az") {
  const expires_on = Math.floor(Date.now() / 1000) + 3600;
  console.log(JSON.stringify({ accessToken: token(3600), expires_on, tenant: "t", tokenType: "Bearer" }));
} else {
  const options = { cert: readFileSync("server.pem"), key: readFileSync("server.key") };
  https.createServer(options, entra).listen(Number(port), "127.0.0.1");
  http.createServer(machine).listen(Number(machinePort), "127.0.0.1");
}
