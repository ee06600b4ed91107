import { Ollama } from "ollama";
import { talk } from "./talk.mjs";

const at = (url) => new Ollama({ host: url });

function calls(messages) {
  const all = messages.flatMap(({ tool_calls }) => tool_calls ?? []);
  return all.map(({ function: { name, arguments: given } }) => ({ name, arguments: given }));
}

async function streamed(url, asked) {
  const messages = [];
  for await (const { message } of await at(url).chat({ ...asked, stream: true })) messages.push(message);
  return messages;
}

await talk({
  async chat({ url, tokens, ...asked }) {
    const answer = await at(url).chat({ ...asked, options: { num_predict: tokens } });
    return { model: answer.model, text: answer.message.content };
  },

  async stream({ url, tokens, ...asked }) {
    const messages = await streamed(url, { ...asked, options: { num_predict: tokens } });
    return messages.map(({ content }) => content).filter(Boolean);
  },

  async leave({ url, tokens, ...asked }) {
    const stream = await at(url).chat({ ...asked, stream: true, options: { num_predict: tokens } });
    for await (const { message } of stream) if (message.content) break;
    stream.abort();
  },

  async embed({ url, model, texts }) {
    return (await at(url).embed({ model, input: texts })).embeddings;
  },

  async call({ url, messages, ...asked }) {
    const { message } = await at(url).chat({ ...asked, messages });
    const results = calls([message]).map(({ name }) => ({ role: "tool", tool_name: name, content: "yes" }));
    const answer = await at(url).chat({ ...asked, messages: [...messages, message, ...results] });
    const told = await streamed(url, { ...asked, messages });
    return { whole: calls([message]), streamed: calls(told), text: answer.message.content };
  },

  async shape({ url, schema, ...asked }) {
    return JSON.parse((await at(url).chat({ ...asked, format: schema })).message.content);
  },
});
