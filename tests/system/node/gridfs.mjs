// Another program that stores files in GridFS, with MongoDB's driver for Node.js.
//
//     node gridfs.mjs MODULES URL get ID NAME [START END]...  write a file's bytes to standard output: first by its
//         id, then the newest file of this name; each time all ranges in turn, END exclusive
//     node gridfs.mjs MODULES URL put NAME  store standard input under this name
//
// MODULES is the folder with node_modules.
import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";

const [modules, url, action, ...words] = process.argv.slice(2);
const { GridFSBucket, MongoClient, ObjectId } = createRequire(`${modules}/`)("mongodb");

const client = new MongoClient(url);
try {
  const bucket = new GridFSBucket(client.db());
  if (action === "get") {
    const [id, name, ...limits] = words;
    const ranges = limits.length ? [] : [{}];
    for (let at = 0; at < limits.length; at += 2) {
      ranges.push({ start: Number(limits[at]), end: Number(limits[at + 1]) });
    }
    for (const range of ranges) {
      await pipeline(bucket.openDownloadStream(new ObjectId(id), range), process.stdout, { end: false });
    }
    for (const range of ranges) {
      await pipeline(bucket.openDownloadStreamByName(name, range), process.stdout, { end: false });
    }
  } else {
    await pipeline(process.stdin, bucket.openUploadStream(words[0]));
  }
} finally {
  await client.close();
}
