// A program of somebody else's that keeps files in GridFS, with the driver of MongoDB for Node.
//
//     node gridfs.mjs MODULES URL id ID [START END]      the bytes of a file of the bucket, END exclusive
//     node gridfs.mjs MODULES URL name NAME [START END]  those of the newest file of this name
//     node gridfs.mjs MODULES URL put NAME               put what is read from the standard input there
//
// MODULES is the folder with node_modules.
import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";

const [modules, url, what, name, start, end] = process.argv.slice(2);
const { GridFSBucket, MongoClient, ObjectId } = createRequire(`${modules}/`)("mongodb");

const client = new MongoClient(url);
try {
  const bucket = new GridFSBucket(client.db());
  const range = start === undefined ? {} : { start: Number(start), end: Number(end) };
  if (what === "id") {
    await pipeline(bucket.openDownloadStream(new ObjectId(name), range), process.stdout, { end: false });
  } else if (what === "name") {
    await pipeline(bucket.openDownloadStreamByName(name, range), process.stdout, { end: false });
  } else {
    await pipeline(process.stdin, bucket.openUploadStream(name));
  }
} finally {
  await client.close();
}
