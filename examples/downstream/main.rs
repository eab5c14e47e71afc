//! A calls B, and B's handler calls C: what B's call inherits without a word about it.
//!
//! The deadline shrinks on its way, the persistent pair travels through every hop and the transient one only to the next; and when A
//! waits no longer, neither B nor C goes on for it.
//!
//! `cargo run --bin downstream`

use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use rpc_core::{Context, Result, Server, sleep};

mod idl {
    rpc_core::include_idl!();
}
use idl::shop::{Order, Receipt, Shop, ShopClient, ShopServer, Stock, StockClient, StockServer};

/// C.
struct Warehouse {
    gone: Sender<&'static str>,
}

impl Stock for Warehouse {
    async fn take(&self, cx: &Context, order: Order) -> Result<Receipt> {
        report("C", cx);
        if order.article == "anvil" {
            let _gone = Gone("C", self.gone.clone());
            sleep(Duration::from_secs(60)).await; // anvils are heavy; nobody waits that long
        }
        Ok(Receipt { text: format!("one {} taken", order.article) })
    }
}

/// B.
struct Corner {
    stock: StockClient,
    gone: Sender<&'static str>,
}

impl Shop for Corner {
    async fn buy(&self, cx: &Context, order: Order) -> Result<Receipt> {
        report("B", cx);
        sleep(Duration::from_millis(20)).await; // spends some of the time that C has left
        let _gone = (order.article == "anvil").then(|| Gone("B", self.gone.clone()));
        self.stock.take(order).await // nothing is passed on by hand
    }
}

/// A.
fn main() -> Result<()> {
    let (gone, who_is_gone) = mpsc::channel();
    let c = Server::builder().add(StockServer::new(Warehouse { gone: gone.clone() })).bind("tcp://127.0.0.1:0")?;
    let stock = StockClient::connect(c.url().to_string())?;
    let b = Server::builder().add(ShopServer::new(Corner { stock, gone })).bind("tcp://127.0.0.1:0")?;
    let shop = ShopClient::connect(b.url().to_string())?;

    let order = |article: &str| {
        let call = shop.buy(Order { article: article.to_owned() });
        call.persistent("TENANT", "acme").metadata("COUNTER", "3")
    };
    let receipt = order("rope").timeout(Duration::from_secs(5)).wait()?;
    println!("A: {}", receipt.text);

    let error = order("anvil").timeout(Duration::from_millis(500)).wait().unwrap_err();
    println!("A: {}, and nobody works for it any more:", error.code());
    for who in who_is_gone.iter().take(2) {
        println!("{who}: stopped");
    }
    Ok(())
}

fn report(who: &str, cx: &Context) {
    let left = cx.remaining().unwrap_or_default().as_millis();
    println!("{who}: {left} ms left, persistent {:?}, transient {:?}", cx.persistent(), cx.transient());
}

/// Tells that a handler was dropped.
struct Gone(&'static str, Sender<&'static str>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}
