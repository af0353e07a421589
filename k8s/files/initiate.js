// Creates the replica set of all nodes, and its user; a later start finds both. Retries while the other nodes are starting.
// Authenticates as a node, with the key that the nodes share, because no user exists yet.
const ALREADY_INITIALIZED = 23;
const USER_ALREADY_EXISTS = 51003;

const key = require("fs").readFileSync("/tmp/keyfile", "utf8").trim();
const node = `127.0.0.1:${process.env.PORT ?? 27017}`;
const url = `mongodb://__system:${encodeURIComponent(key)}@${node}/?authSource=local&directConnection=true`;
const members = process.env.MEMBERS.split(",").map((host, _id) => ({ _id, host, priority: _id ? 1 : 2 }));
const set = { replSetInitiate: { _id: "rs0", members } };
const user = {
  createUser: "seekable",
  pwd: process.env.PASSWORD,
  roles: ["seekable", "users"].map((db) => ({ role: "readWrite", db })),
  writeConcern: { w: "majority" },
};

// Returns 0 on success, otherwise the code of the error.
function attempt(command) {
  let answer;
  try {
    answer = new Mongo(`${url}&serverSelectionTimeoutMS=2000`).getDB("admin").runCommand(command);
  } catch (error) {
    answer = error;
  }
  if (answer.ok) return 0;
  print(`${Object.keys(command)[0]}: ${answer.errmsg ?? answer.message}`);
  return answer.code;
}

function insist(command, unlessAlready) {
  while (![0, unlessAlready].includes(attempt(command))) sleep(2000);
}

insist(set, ALREADY_INITIALIZED);
insist(user, USER_ALREADY_EXISTS);
print("The replica set is ready.");
