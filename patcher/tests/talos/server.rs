//! A gRPC server on a loopback port, as apid is one.

use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use ichor_proto::talos::cluster::cluster_service_server::ClusterServiceServer;
use ichor_proto::talos::cosi::resource::state_server::StateServer;
use ichor_proto::talos::machine::machine_service_server::MachineServiceServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::apid::Apid;
use crate::node::Node;

/// A running server. Dropping it cuts its connections and closes its port.
pub(crate) struct Server {
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    sockets: Sockets,
}

/// A second handle to each accepted socket, to cut it.
type Sockets = Arc<Mutex<Vec<std::net::TcpStream>>>;

impl Server {
    pub(crate) async fn start(tls: Arc<ServerConfig>, node: Arc<Node>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, tls, Apid::of_one(node))
    }

    pub(crate) fn start_on(listener: TcpListener, tls: Arc<ServerConfig>, apid: Arc<Apid>) -> Self {
        let address = listener.local_addr().unwrap();
        let (ready, incoming) = mpsc::channel(16);
        let sockets = Sockets::default();
        let accept = tokio::spawn(accept(listener, TlsAcceptor::from(tls), ready, sockets.clone()));
        let serve = tonic::transport::Server::builder()
            .add_service(MachineServiceServer::from_arc(apid.clone()))
            .add_service(ClusterServiceServer::from_arc(apid.clone()))
            .add_service(StateServer::from_arc(apid))
            .serve_with_incoming(ReceiverStream::new(incoming));
        let serve = tokio::spawn(async move { serve.await.unwrap() });
        Self { address, tasks: vec![accept, serve], sockets }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub(crate) const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Stops it and waits until its port is free.
    pub(crate) async fn stop(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

type Accepted = Result<Connection, std::io::Error>;

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<Accepted>,
    sockets: Sockets,
) {
    let mut handshakes = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let stream = stream.into_std().unwrap();
        sockets.lock().unwrap().push(stream.try_clone().unwrap());
        let stream = TcpStream::from_std(stream).unwrap();
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        handshakes.spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = ready.send(Ok(Connection(Box::new(stream)))).await;
            }
        });
    }
}

/// A connection that tonic serves without knowing about TLS.
struct Connection(Box<TlsStream<TcpStream>>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
