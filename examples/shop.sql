-- A database that is ready to be captured; run by psql, with the password of the role in CDC_PASSWORD.
\getenv password CDC_PASSWORD
\set ON_ERROR_STOP on

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    balance numeric(10, 2) NOT NULL DEFAULT 0
);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    status text NOT NULL DEFAULT 'new',
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customers (name, balance) VALUES ('Ada', 12.50), ('Grace', 1);
INSERT INTO orders (customer_id) VALUES (1), (1), (2);

CREATE ROLE cdc LOGIN REPLICATION PASSWORD :'password';
GRANT USAGE ON SCHEMA public TO cdc;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO cdc;
CREATE PUBLICATION cdc_shop FOR TABLE customers, orders;
