// A program of somebody else's that keeps files in GridFS, with the driver of MongoDB for Node.
//
//     node gridfs.mjs MODULES URL get ID NAME [START END]...  the bytes of a file of the bucket, by its id, and
//         then those of the newest file of this name; of each the ranges one after the other, END exclusive
//     node gridfs.mjs MODULES URL put NAME  put what is read from the standard input there
//
// MODULES is the folder with node_modules.
import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";

const [modules, url, what, ...words] = process.argv.slice(2);
const { GridFSBucket, MongoClient, ObjectId } = createRequire(`${modules}/`)("mongodb");

const client = new MongoClient(url);
try {
  const bucket = new GridFSBucket(client.db());
  if (what === "get") {
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
