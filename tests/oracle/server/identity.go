package main

import (
	"crypto/tls"
	stdx509 "crypto/x509"
	"fmt"
	"net"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/client/config"
	machineryconfig "github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Largest message, as apid takes it.
const maxMessage = 32 << 20

// Identity is a cluster's PKI, as the official library makes it.
type Identity struct {
	ca     *x509.PEMEncodedCertificateAndKey
	server *x509.PEMEncodedCertificateAndKey
	client *x509.PEMEncodedCertificateAndKey
}

func newIdentity() (*Identity, error) {
	bundle, err := secrets.NewBundle(secrets.NewClock(), machineryconfig.TalosVersion1_14)
	if err != nil {
		return nil, err
	}

	client, err := bundle.GenerateTalosAPIClientCertificate(role.MakeSet(role.Admin))
	if err != nil {
		return nil, err
	}

	authority, err := x509.NewCertificateAuthorityFromCertificateAndKey(bundle.Certs.OS)
	if err != nil {
		return nil, err
	}

	pair, err := x509.NewKeyPair(authority,
		x509.IPAddresses([]net.IP{net.IPv4(127, 0, 0, 1)}),
		x509.NotAfter(time.Now().Add(24*time.Hour)),
		x509.KeyUsage(stdx509.KeyUsageDigitalSignature),
		x509.ExtKeyUsage([]stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth}),
	)
	if err != nil {
		return nil, err
	}

	return &Identity{ca: bundle.Certs.OS, server: x509.NewCertificateAndKeyFromKeyPair(pair), client: client}, nil
}

func (identity *Identity) talosconfig(endpoint string) (string, error) {
	text, err := config.NewConfig("oracle", []string{endpoint}, identity.ca.Crt, &x509.PEMEncodedCertificateAndKey{
		Crt: identity.client.Crt,
		Key: identity.client.Key,
	}).Bytes()

	return string(text), err
}

func (identity *Identity) pool() (*stdx509.CertPool, error) {
	pool := stdx509.NewCertPool()
	if !pool.AppendCertsFromPEM(identity.ca.Crt) {
		return nil, fmt.Errorf("the CA has no certificate")
	}

	return pool, nil
}

// listen starts a server that asks for a client certificate, as apid does.
func (identity *Identity) listen(register func(*grpc.Server)) (string, error) {
	pool, err := identity.pool()
	if err != nil {
		return "", err
	}

	certificate, err := tls.X509KeyPair(identity.server.Crt, identity.server.Key)
	if err != nil {
		return "", err
	}

	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    pool,
			MinVersion:   tls.VersionTLS12,
		})),
		grpc.MaxRecvMsgSize(maxMessage),
	)
	register(server)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}

	go server.Serve(listener) //nolint:errcheck // it ends with the process

	return listener.Addr().String(), nil
}

func (identity *Identity) dial(address string) (*grpc.ClientConn, error) {
	pool, err := identity.pool()
	if err != nil {
		return nil, err
	}

	certificate, err := tls.X509KeyPair(identity.client.Crt, identity.client.Key)
	if err != nil {
		return nil, err
	}

	return grpc.NewClient(address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{certificate},
			RootCAs:      pool,
			MinVersion:   tls.VersionTLS12,
		})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
}
