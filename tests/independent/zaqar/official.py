"""The official Zaqar server over WebSocket, with its driver for MongoDB on a MongoDB in memory.

    official.py CONFIG

Prints its address when it listens, and serves until it is ended.
"""

import asyncio
import socket
import sys

import mongomock
import pymongo
from mongomock.database import Database
from oslo_config import cfg
from oslo_log import log

from zaqar import bootstrap


class MongoClient(mongomock.MongoClient):
    """What Zaqar asks of a client beyond what mongomock has."""

    nodes = frozenset()
    is_mongos = False
    write_concern = pymongo.WriteConcern()

    def drop_database(self, name_or_db):
        super().drop_database(name_or_db.name if isinstance(name_or_db, Database) else name_or_db)


def main():
    pymongo.MongoClient = MongoClient
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf(args=[], project="zaqar", default_config_files=sys.argv[1:])
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    boot = bootstrap.Bootstrap(conf)
    transport = boot.transport
    conf.set_override("port", port, "drivers:transport:websocket")
    loop.run_until_complete(loop.create_server(transport.factory, sock=listener))
    notifications = loop.run_until_complete(loop.create_server(transport.notification_factory, "127.0.0.1", 0))
    address = notifications.sockets[0].getsockname()
    transport.notification_factory.set_subscription_url(f"http://127.0.0.1:{address[1]}/")
    boot.api.set_subscription_factory(transport.notification_factory)
    print(f"listen=127.0.0.1:{port}", flush=True)
    loop.run_forever()


main()
