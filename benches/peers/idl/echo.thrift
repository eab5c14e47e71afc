// `echo.proto` for peers that speak Thrift.
namespace rs echo_thrift

struct Blob {
  1: required binary payload,
}

struct Item {
  1: required string sku,
  2: required i32 quantity,
  3: required double price,
  4: required list<string> tags,
}

struct Mixed {
  1: required string id,
  2: required i64 created_ms,
  3: required list<Item> items,
  4: required map<string, string> labels,
  5: required bool paid,
}

service Testee {
  Blob Echo(1: Blob req),
  Mixed EchoMixed(1: Mixed req),
}
